import dataclasses

import pytest

from schemas.manifest import DataFile, Manifest

WEIGHTS = DataFile("data/training/date=d/run=r/artifacts/m.safetensors", "ab", 0, 10, 0)
EMPTY = Manifest(
    "training", "1.0.0", "f", "train", "m", "r", "d", 1, "c", {}, (), (), (), 0, 0, {}, {}, {}, (), (WEIGHTS,)
)


def test_artifacts_are_read_back_and_decide_the_digest():
    assert Manifest.from_json(EMPTY.to_json(), "here") == EMPTY
    other = dataclasses.replace(EMPTY, artifacts=(dataclasses.replace(WEIGHTS, sha256="cd"),))
    assert other.digest != EMPTY.digest


def test_an_artifact_is_found_by_name_or_missed_in_words():
    assert EMPTY.artifact("m.safetensors") == WEIGHTS
    with pytest.raises(ValueError, match=r"no artifact 'x'; it has .*m\.safetensors"):
        EMPTY.artifact("x")
