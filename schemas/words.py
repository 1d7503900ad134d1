"""Types and rules of a contract in words, for pages and messages."""

from typing import Any

from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen, Rule


def type_in_words(type_: Any) -> str:
    """Spell a type of a contract's canonical form, `list of vector of 64` for example."""
    if isinstance(type_, str):
        return type_
    if "list" in type_:
        return f"list of {type_in_words(type_['list'])}"
    return f"vector of {type_['vector']}" if "vector" in type_ else "record"


def rule_in_words(rule: Rule, type_: Any) -> str:
    """Say what a rule asks of a column of the given canonical type."""
    match rule:
        case Required():
            return "not null or empty" if type_ == "string" else "not null"
        case Between(low, high):
            return f"{_number(low)} to {_number(high)}"
        case OneOf(values):
            return f"one of {', '.join(values)}"
        case MaxLength(limit):
            return f"at most {_number(limit)} {'bytes' if type_ == 'string' else 'elements'}"
        case RequiredWhen(column, values):
            return f"not null where {column} is {' or '.join(values)}"
        case NotAfter(column, tolerance_s):
            return f"at most {_number(tolerance_s)} s after {column}" if tolerance_s else f"not after {column}"
        case AtMost(column, factor, slack):
            return f"at most {_number(factor)} x {column}" + (f" + {_number(slack)}" if slack else "")


def _number(value: float) -> str:
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{int(value):,}" if whole else f"{value:g}"
