import pytest

from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen
from schemas.words import rule_in_words, type_in_words


@pytest.mark.parametrize(
    ("rule", "type_", "words"),
    [
        (Required(), "string", "not null or empty"),
        (Required(), "int64", "not null"),
        (Between(0, 86_400_000), "int64", "0 to 86,400,000"),
        (Between(-3.0e38, 0.25), "float32", "-3e+38 to 0.25"),
        (OneOf(("a", "b")), "string", "one of a, b"),
        (MaxLength(2000), "string", "at most 2,000 bytes"),
        (MaxLength(3), {"list": "string"}, "at most 3 elements"),
        (RequiredWhen("kind", ("a", "b")), "int64", "not null where kind is a or b"),
        (NotAfter("end"), "timestamp_us_utc", "not after end"),
        (NotAfter("end", 300), "timestamp_us_utc", "at most 300 s after end"),
        (AtMost("length", 1.1, 30_000), "int64", "at most 1.1 x length + 30,000"),
        (AtMost("budget", 1.0, 0.0), "float64", "at most 1 x budget"),
    ],
)
def test_every_rule_has_words(rule, type_, words):
    assert rule_in_words(rule, type_) == words


def test_types_are_spelled_from_the_outside_in():
    assert type_in_words({"list": {"list": {"vector": 64}}}) == "list of list of vector of 64"
    assert type_in_words({"list": {"struct": []}}) == "list of record"
    assert type_in_words("timestamp_us_utc") == "timestamp_us_utc"
