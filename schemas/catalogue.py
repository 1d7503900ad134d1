"""All contracts by name."""

from schemas.audit import TOMBSTONE_SCAN
from schemas.candidates import CALIBRATION, CANDIDATE_SET, EXPOSURE, PROPOSAL, REJECTION
from schemas.contract import Contract
from schemas.evaluation import EVALUATION, OFF_POLICY
from schemas.inputs import CAMPAIGN, EVENT, ITEM, TOMBSTONE, USER
from schemas.models import EXAMPLE, INDEX, ITEM_EMBEDDING, TRAINING, USER_EMBEDDING, VOCABULARY
from schemas.stream import DEAD_LETTER
from schemas.tallies import (
    ARTIST_TOP,
    CO_LISTEN,
    CO_LISTEN_PARTIAL,
    HISTORY,
    POPULARITY,
    POPULARITY_PARTIAL,
    TRANSITION,
    TRANSITION_PARTIAL,
)

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        EVENT, ITEM, USER, CAMPAIGN, TOMBSTONE, HISTORY, POPULARITY_PARTIAL, POPULARITY, ARTIST_TOP, CO_LISTEN_PARTIAL,
        CO_LISTEN, TRANSITION_PARTIAL, TRANSITION, PROPOSAL, CALIBRATION, CANDIDATE_SET, EXPOSURE, REJECTION,
        VOCABULARY, EXAMPLE, TRAINING, ITEM_EMBEDDING, USER_EMBEDDING, INDEX, EVALUATION, OFF_POLICY, TOMBSTONE_SCAN,
        DEAD_LETTER,
    )
}  # fmt: skip
