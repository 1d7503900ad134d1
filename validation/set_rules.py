"""Rules of a candidate set that a contract has no words for: what its list of candidates must be.

Each is written twice, for polars and for DuckDB, and a test holds the two to one answer: the stream refuses to publish a set
that breaks one, and each minute of what it published is judged again by the other.
"""

import polars as pl

_CANDIDATES = pl.col("candidates").list
_TIMES = (pl.col("effective_from"), pl.col("expires_at"))


def _each(name: str) -> pl.Expr:
    return _CANDIDATES.eval(pl.element().struct.field(name))


def _twice(name: str) -> pl.Expr:
    return _each(name).list.n_unique() < _CANDIDATES.len()


def _sql_twice(name: str) -> str:
    return f"len(list_distinct(list_transform(candidates, lambda c: c.{name}))) < len(candidates)"


_CHANCE = pl.element().struct.field("propensity")
RULES: tuple[tuple[str, pl.Expr, str], ...] = (
    ("candidates:not_empty", _CANDIDATES.len() == 0, "len(candidates) = 0"),
    ("candidates:items_once", _twice("item_id"), _sql_twice("item_id")),
    ("candidates:recordings_once", _twice("canonical_id"), _sql_twice("canonical_id")),
    (
        "candidates:in_order",
        _each("position") != pl.int_ranges(0, _CANDIDATES.len(), dtype=pl.Int32),
        "list_transform(candidates, lambda c: CAST(c.position AS BIGINT)) <> range(len(candidates))",
    ),
    (
        "candidates:propensity",
        ~_CANDIDATES.eval((_CHANCE > 0) & (_CHANCE <= 1)).list.all(),
        "len(list_filter(candidates, lambda c: NOT (c.propensity > 0 AND c.propensity <= 1))) > 0",
    ),
    ("counts:out", pl.col("counts").struct.field("out") != _CANDIDATES.len(), "counts.out <> len(candidates)"),
    ("expires_at:after:effective_from", _TIMES[1] <= _TIMES[0], "expires_at <= effective_from"),
)
"""`(name, where a set breaks it in polars, where it does in DuckDB)`."""


def set_rules() -> list[tuple[str, pl.Expr]]:
    """Return `(name, expression)`; true where a set breaks the rule, never null."""
    return [(name, broken.fill_null(False)) for name, broken, _ in RULES]


def sql_set_rules() -> list[tuple[str, str]]:
    """Return `(name, DuckDB predicate)`; true where a set breaks the rule."""
    return [(name, broken) for name, _, broken in RULES]
