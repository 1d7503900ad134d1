"""Which dead letters may be sent again."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from transforms.decode import POSITION
from transforms.io.broker import Message, Received
from transforms.stream.dead_letters import decode_letter, original
from transforms.stream.messages import decode_messages, event_attributes
from transforms.stream.session import OUTCOMES

FOREIGN, ERASED, NO_MESSAGE, VERDICT = "foreign", "erased", "no_message", "verdict"
DONE, TRIED, STILL_BROKEN, AGAIN = "done", "tried", "still_broken", "again"


@dataclasses.dataclass(frozen=True, slots=True)
class Sorted:
    """What is to happen to each of some dead letters.

    Attributes:
      fate: one of `FOREIGN`, no dead letter; `ERASED`, of an erased user; `NO_MESSAGE`, about no message; `VERDICT`, an
        outcome that sending again does not change; `DONE`, this very letter was sent again; `TRIED`, its payload was, by
        this version of the code; `STILL_BROKEN`, no event by the rules of today; `AGAIN`.
      messages: what is sent again, by index.
      marks: what to remember of those, by index.
    """

    fate: list[str]
    messages: dict[int, Message]
    marks: dict[int, tuple[str, str]]


def sort_letters(received: Sequence[Received], erased: set[str], marked: set[str], code_version: str) -> Sorted:
    """Tell which dead letters may be sent again: the code or the rules of today may take what those of then did not.

    Args:
      erased: users. `marked`: the marks of all letters that were sent again before.
    """
    letters = [decode_letter(one) for one in received]
    marks = [_marks(one, code_version) if one else ("", "") for one in letters]
    fate, chosen = [], set(marked)
    for one, mark in zip(letters, marks, strict=True):
        fate.append(_fate(one, mark, erased, chosen))
        chosen |= set(mark) if fate[-1] == AGAIN else set()
    asked = {i: message for i, one in enumerate(letters) if one and fate[i] == AGAIN and (message := original(one))}
    tried = decode_messages(list(asked.values()), code_version)
    again: dict[int, Message] = {}
    for position, event_id, event_ts in tried.rows.select(POSITION, "event_id", "event_ts").iter_rows():
        i = list(asked)[position]
        again[i] = Message(asked[i].data, {**asked[i].attributes, **event_attributes(event_id, event_ts)})
    fate = [STILL_BROKEN if what == AGAIN and i not in again else what for i, what in enumerate(fate)]
    return Sorted(fate, again, {i: marks[i] for i in again})


def _marks(found: dict[str, Any], code_version: str) -> tuple[str, str]:
    """Return what names this letter, and what names its payload with this code."""
    digest = hashlib.sha256((found["payload"] or "").encode()).hexdigest()
    return f"{found['message_id']}/{found['stage']}", f"{digest}@{code_version}"


def _fate(found: dict[str, Any] | None, marks: tuple[str, str], erased: set[str], marked: set[str]) -> str:
    if found is None:
        return FOREIGN
    if found["user_id"] in erased:
        return ERASED
    if found["payload"] is None:
        return NO_MESSAGE
    if found["error_class"] in OUTCOMES:
        return VERDICT
    letter, payload = marks
    return DONE if letter in marked else TRIED if payload in marked else AGAIN
