"""A golden, and the code that says what it expects, changes together with its data card, or not at all."""

import hashlib
import re

import pytest
from golden_world import HERE

NAMES = ("canaries.toml", "personas.toml", "neighbours.toml", "now_playing.toml", "golden_world.py", "followers.py")
CARDS = HERE / "cards.md"


def last_entry(cards: str, name: str) -> str | None:
    """Return the digest in the last line of a set's table."""
    card = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", cards, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^\| \d{4}-\d\d-\d\d \| `(\w+)` \| [^|]+ \|$", card[1], re.MULTILINE) if card else []
    return entries[-1] if entries else None


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_that_changed_has_an_entry_in_its_card(name):
    now = hashlib.sha256((HERE / name).read_bytes()).hexdigest()[:16]
    assert last_entry(CARDS.read_text(encoding="utf-8"), name) == now, (
        f"{name} is not what its card says. Add to its table in tests/goldens/cards.md:\n"
        f"| YYYY-MM-DD | `{now}` | what changed, and why |"
    )


def test_every_golden_file_has_a_card():
    assert sorted(file.name for file in HERE.glob("*.toml")) == sorted(name for name in NAMES if name.endswith(".toml"))


def test_an_entry_counts_for_its_own_set_only():
    cards = "## a.toml\n| 2026-01-01 | `1` | first |\n## b.toml\n| 2026-01-02 | `2` | next |\n"
    assert (last_entry(cards, "a.toml"), last_entry(cards, "b.toml"), last_entry(cards, "c.toml")) == ("1", "2", None)
