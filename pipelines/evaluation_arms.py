"""What recommending earns: the listeners who are held out beside the others, with intervals."""

import dataclasses
from typing import Any

from schemas.evaluation import ARM_FIGURES, SETS, UNIT
from transforms.evaluation import Cell, Sums, difference, interval
from validation.arm_gates import HELD_OUT, OTHERS

FIGURES = {"positives": "listeners", "recall": "explorers"}
"""Of each figure, who it is a mean over."""
_INTERVAL = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Arms:
    """One figure of both arms.

    Attributes:
      units: listeners by arm. means: by arm, with 95 % intervals. difference: of the others minus those who are held out.
    """

    units: dict[str, int]
    means: dict[str, _INTERVAL]
    difference: _INTERVAL


def compare_arms(sums: Sums) -> dict[str, Arms]:
    """Return `positives`, what a listener liked, and `recall`, the share of what was new that sets held, of both arms.

    Whoever liked nothing, or nothing new, is in neither. Empty where nobody was held out.
    """
    found = {}
    for kind, over in FIGURES.items():
        pairs = {arm: (_cell(arm, kind), _cell(arm, over)) for arm in (OTHERS, HELD_OUT)}
        if any(cell not in sums.cells or not sums.cells[cell][0] for _, cell in pairs.values()):
            continue
        both = {arm: (sums.cells[one], sums.cells[other]) for arm, (one, other) in pairs.items()}
        units = {arm: int(of[0]) // UNIT for arm, (_, of) in both.items()}
        means = {arm: interval(*pair) for arm, pair in both.items()}
        found[kind] = Arms(units, means, difference(both[OTHERS], both[HELD_OUT]))
    return found


def _cell(arm: str, kind: str) -> Cell:
    return Cell("all", SETS, "all", "all", ARM_FIGURES[arm][kind], 0)


def arms_to_json(sums: Sums) -> dict[str, Any]:
    """Return the comparison for programs."""
    return {kind: dataclasses.asdict(one) for kind, one in compare_arms(sums).items()}


def arms_in_words(sums: Sums) -> list[str]:
    """Say how the arms compare; nothing where nobody was held out."""
    words = {
        "positives": ("liked {} plays a listener", "{:.2f}"),
        "recall": ("found {} of what was new to them in their sets", "{:.4f}"),
    }
    lines = []
    for kind, one in compare_arms(sums).items():
        said, digits = words[kind]
        held, others, apart = (
            f"{digits} ({digits} to {digits})".format(*of)
            for of in (one.means[HELD_OUT], one.means[OTHERS], one.difference)
        )
        lines.append(
            f"{one.units[HELD_OUT]:,} who are held out {said.format(held)}, {one.units[OTHERS]:,} others {others}:"
            f" {apart} more"
        )
    return lines
