"""Waivers: somebody answers for a failed check, for a reason and until a date."""

import dataclasses
import datetime
import tomllib
from collections.abc import Sequence
from typing import Any

from schemas.manifest import CheckResult

_KEYS = ("check", "dataset", "owner", "reason", "expires")


@dataclasses.dataclass(frozen=True, slots=True)
class Waiver:
    """Permission for one failed check of one dataset.

    Attributes:
      expires: the last logical date it holds for.
    """

    check: str
    dataset: str
    owner: str
    reason: str
    expires: datetime.date


def parse_waivers(text: str, where: str) -> list[Waiver]:
    """Read waivers from TOML, one `[[waiver]]` table each.

    Raises:
      ValueError: not TOML, an unknown or missing key, an empty text or something else than a date; `where` names it.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not TOML: {error}; correct it or move it away") from error
    unknown = sorted(set(tables) - {"waiver"})
    if unknown or not isinstance(tables.get("waiver", []), list):
        raise ValueError(f"{where}: expected [[waiver]] tables only, got {unknown or 'one [waiver]'}; rename them")
    return [_waiver(entry, f"{where}, waiver {number + 1}") for number, entry in enumerate(tables.get("waiver", []))]


def _waiver(entry: dict[str, Any], where: str) -> Waiver:
    if sorted(entry) != sorted(_KEYS):
        raise ValueError(
            f"{where}: expected the keys {', '.join(_KEYS)}, got {', '.join(sorted(entry))}; correct the entry"
        )
    empty = [key for key in _KEYS[:-1] if not isinstance(entry[key], str) or not entry[key].strip()]
    if empty:
        raise ValueError(f"{where}: {', '.join(empty)} must be text and not empty; a waiver without them binds nobody")
    if type(entry["expires"]) is not datetime.date:
        raise ValueError(f"{where}: expected expires = YYYY-MM-DD without quotes, got {entry['expires']!r}")
    return Waiver(**entry)


def apply_waivers(
    results: Sequence[CheckResult], waivers: Sequence[Waiver], dataset: str, date: str
) -> list[CheckResult]:
    """Turn failed checks into waived ones where a waiver holds at the logical date `date`.

    A `broken` check stays broken: nobody knows what there would be to waive. A waiver that expired is named in the
    message of the check it no longer covers.
    """
    day = datetime.date.fromisoformat(date)
    return [
        _waived(result, [w for w in waivers if (w.check, w.dataset) == (result.name, dataset)], day)
        for result in results
    ]


def _waived(result: CheckResult, waivers: list[Waiver], day: datetime.date) -> CheckResult:
    if result.outcome != "failed" or not waivers:
        return result
    waiver = max(waivers, key=lambda w: (w.expires, w.owner, w.reason))
    who = f"by {waiver.owner} until {waiver.expires}: {waiver.reason}"
    if day <= waiver.expires:
        return dataclasses.replace(result, outcome="waived", message=f"{result.message} [waived {who}]")
    return dataclasses.replace(
        result, message=f"{result.message} [the waiver {who} has expired; renew it or mend the data]"
    )


def verdict(results: Sequence[CheckResult]) -> str:
    """Return `failed` where a critical check failed, else `broken` where one could not run, else `passed`."""
    outcomes = {result.outcome for result in results if result.severity == "critical"}
    return next((outcome for outcome in ("failed", "broken") if outcome in outcomes), "passed")
