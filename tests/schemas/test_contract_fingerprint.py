"""A fingerprint is a promise to stored data: it moves with meaning and with nothing else."""

import dataclasses

import pyarrow as pa
import pytest
from toy_contracts import PART, contract_of, every_type

from schemas.contract import column
from schemas.rules import Between

PINNED = "102794861b2c0167"


def toy(type_=pa.int64(), nullable=False, low=0, name="x"):  # noqa: B008
    return contract_of(
        column("id", pa.string(), "Id."), column(name, type_, "X.", nullable=nullable, rules=(Between(low, 9),))
    )


def test_the_fingerprint_of_a_fixed_contract_never_changes():
    assert every_type().fingerprint == PINNED


def test_words_version_and_owner_do_not_count():
    changed = every_type(description="Another text.", unit="us")
    assert changed.fingerprint == PINNED
    assert dataclasses.replace(changed, version="2.0.0", owner="others", description="Other.").fingerprint == PINNED


def test_how_arrow_spells_a_type_does_not_count():
    spelled = [toy(pa.list_(pa.field(inner, PART))) for inner in ("item", "element")]
    assert len({str(contract.schema.field("x").type) for contract in spelled}) == 2
    assert len({contract.fingerprint for contract in spelled}) == 1


@pytest.mark.parametrize(
    "changed",
    [
        toy(pa.int32()),
        toy(nullable=True),
        toy(low=1),
        toy(name="y"),
        dataclasses.replace(toy(), key=("id", "x")),
        dataclasses.replace(toy(), shard_by="id"),
        dataclasses.replace(toy(), name="other"),
    ],
    ids=["type", "null", "rule", "name", "key", "shard", "contract"],
)
def test_everything_a_reader_relies_on_counts(changed):
    assert changed.fingerprint != toy().fingerprint
