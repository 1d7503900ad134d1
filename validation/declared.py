"""Which checks a dataset must have been held to before it is published: those of its contract, and those of its thresholds."""

from schemas.contract import Contract
from validation.candidate_gates import EXPOSURE_GATES, SET_GATES
from validation.rows import declared_rules

COLUMNS = "columns:declared"
_GATES = {"candidate_set": SET_GATES, "exposure": EXPOSURE_GATES}


def unique_name(contract: Contract) -> str:
    """Return the name of the check that no two rows have the contract's key."""
    return f"{'+'.join(contract.key)}:unique"


def declared_checks(contract: Contract) -> frozenset[str]:
    """Return the names of all checks that may stop a dataset that is published; one with nothing to judge is recorded too."""
    rules = (name for name, _, _ in declared_rules(contract))
    return frozenset((COLUMNS, *rules, unique_name(contract), *_GATES.get(contract.name, ())))
