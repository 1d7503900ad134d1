"""The words of explain: every rule of the blend has some, and every figure they name exists."""

import string

from toy_road import policy, quota

from transforms.blend import RULES
from transforms.explain import _ITEM_WORDS, _WORDS, NOT_NEEDED, _in_words

FIGURES = {
    "source", "detail", "rank", "maximum", "limit", "size", "fill_to", "start", "end", "needed_markets", "needed_tiers",
    "max_age", "languages", "record_key", "explored", "pool", "chance", "recent_skip_days", "recent_play_days", "skip_over", "play_over", *_ITEM_WORDS,
}  # fmt: skip


def test_every_rule_has_words() -> None:
    assert set(_WORDS) == {*RULES, "size:fallback", "size:content", NOT_NEEDED}


def test_words_name_figures_that_exist() -> None:
    named = {
        field for pair in _WORDS.values() for text in pair for _, field, _, _ in string.Formatter().parse(text) if field
    }
    assert named <= FIGURES


def test_what_gave_way_to_another_kind_says_so() -> None:
    surface = policy(quota("near"), quota("charts"), size=10, fill_to=8)
    row = {"rule": "size", "source_id": "near", "detail": 5.0}
    assert _in_words(surface, row) == "size:content"
    assert _in_words(surface, row | {"detail": 10.0}) == "size"
    assert _in_words(surface, row | {"source_id": "charts", "detail": 8.0}) == "size:fallback"
    assert _in_words(surface, row | {"rule": "cap:artist"}) == "cap:artist"
