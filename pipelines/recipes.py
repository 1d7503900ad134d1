"""What makes the scores of a source those of one model: how it is trained, not what it was trained on.

A calibration is a chance by rank, so a training that moves or stretches scores changes nothing in it. It is wrong where ranks mean
something else: the fifth best of a model that was built otherwise is as good as nobody has seen yet. A training of the same recipe on
another week is no other model: its ranks are as good as the listening of that week lets them be, as those of a table are, and the
counts of the weeks before fade at the pace of `calibration_half_life_days`.
"""

import hashlib
import json
from collections.abc import Mapping

from pipelines.train import ENCODER
from schemas.manifest import Manifest
from schemas.models import EMBEDDING_DIM
from transforms.sources import Source
from transforms.vector_sources import VECTOR_SIGNALS

SESSION_KNN = "session_knn"
_FAMILIES = dict.fromkeys(VECTOR_SIGNALS, ENCODER) | {"neighbour_session": SESSION_KNN}
_OF_THE_DATA = ("share", "device")
"""What a training's settings say besides its recipe: how much of the data there was to take, and where it ran."""


def recipes(sources: Mapping[str, Source], trained: Mapping[str, Manifest]) -> dict[str, str]:
    """Return, of every source that ranks by what a model says, a digest of the model's recipe and of what its scores are.

    Args:
      trained: by family.
    """
    found = {}
    for name, source in sorted(sources.items()):
        family = _FAMILIES.get(source.signal_type)
        if family:
            settings = {key: value for key, value in trained[family].config.items() if key not in _OF_THE_DATA}
            of = [family, EMBEDDING_DIM, source.signal_type, source.score_kind, settings]
            found[name] = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
    return found


def strangers(ours: Mapping[str, str], theirs: Manifest | None) -> tuple[str, ...]:
    """Return the sources whose model is another one than in the run that made a dataset, or one it does not tell of."""
    known = theirs.config.get("models", {}) if theirs else ours
    return tuple(name for name, recipe in sorted(ours.items()) if known.get(name) != recipe)
