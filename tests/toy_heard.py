"""Events of one listener as the stream keeps them, by minute."""

from transforms.stream.session import Heard, Window

MINUTE = 60_000_000
HOURS = 60
NOON = 1_769_860_800_000_000  # 2026-01-31 12:00 UTC


def heard(minute: float, event_id: str | None = None, digest: int = 1, **fields) -> Heard:
    told = {
        "event_type": "play", "item_id": f"i{minute:g}", "item_type": "track", "label": 0.5, "ms_played": 60_000,
        "session_id": None, "context_uri": None, "reason_start": None, "market": "SE",
    } | fields  # fmt: skip
    return Heard(NOON + round(minute * MINUTE), event_id or f"e{minute:g}", digest, **told)


def skip(minute: float, event_id: str | None = None, ms: int = 3_000, **fields) -> Heard:
    """Return a skip with the label of a track's (`transforms.label`)."""
    label = -0.5 if ms < 10_000 else 0.0 if ms < 30_000 else 0.5
    return heard(minute, event_id, event_type="skip", label=label, ms_played=ms, **fields)


def windows(users, tracks, minutes=3) -> dict[str, Window]:
    """Return windows of everybody: user n heard three tracks from the n-th on, in the n-th hour of a day."""
    starts = {user: n % 5 for n, user in enumerate(users["user_id"].head(20))} | {"nobody-knows-me": 4}
    return {
        user: Window.of(
            heard(HOURS * n + m, f"{user}-{m}", item_id=tracks[(n + m) % len(tracks)]) for m in range(minutes)
        )
        for user, n in starts.items()
    }
