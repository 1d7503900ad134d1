"""The words of explain: every rule of the blend has some, and every figure they name exists."""

import string

from transforms.blend import RULES
from transforms.explain import _ITEM_WORDS, _WORDS, NOT_NEEDED

FIGURES = {
    "source", "detail", "rank", "maximum", "limit", "size", "fill_to", "start", "end", "needed_markets", "needed_tiers",
    "max_age", "languages", "record_key", "explored", "pool", "chance", "recent_skip_days", "recent_play_days", "skip_over", "play_over", *_ITEM_WORDS,
}  # fmt: skip


def test_every_rule_has_words() -> None:
    assert set(_WORDS) == {*RULES, "size:fallback", NOT_NEEDED}


def test_words_name_figures_that_exist() -> None:
    named = {
        field for pair in _WORDS.values() for text in pair for _, field, _, _ in string.Formatter().parse(text) if field
    }
    assert named <= FIGURES
