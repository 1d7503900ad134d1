"""How big a synthetic world is, how dirty, and when it ends."""

import dataclasses
import datetime
import zlib

import numpy as np
import polars as pl
import pyarrow as pa

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
ARRIVAL_CUTOFF_US = 6 * HOUR_US
"""Nothing arrives later than 06:00 UTC after the last day: the cut-off of the daily batch."""
MIN_USERS, MIN_ITEMS = 100, 2_000

_MARKET_CODES = (
    "US BR SE JP GB DE FR MX ES IT IN ID CA AU NL PL AR CO CL PE TR PH NO DK FI BE CH AT IE PT CZ RO HU GR NZ ZA "
    "SG MY TH VN TW HK KR IL AE SA EG MA NG KE UA BG SK HR SI RS LT LV EE IS LU MT CY EC BO PY UY VE CR PA GT SV "
    "HN NI DO PR JM TT BB BS BZ GY SR HT LC VC GD AG DM KN AD MC SM LI AL MK BA ME XK MD AM GE AZ KZ KG UZ TJ MN "
    "PK BD LK NP BT MV KH LA BN TL PG FJ WS TO VU SB KI TV NR FM MH PW QA BH KW OM JO LB IQ LY TN DZ MR ML NE TD "
    "SN GM GN GW SL LR CI GH TG BJ BF CM GA GQ CG CD AO ZM ZW MZ MW TZ UG RW BI ET DJ KM SC MU MG NA BW LS SZ ST "
    "CV CW MO VA"
)
MARKETS = tuple(_MARKET_CODES.split())
"""184 markets, ISO 3166 alpha-2; the first four have names and languages of their own."""
_UTC_OFFSETS = {"US": -360, "BR": -180, "SE": 60, "JP": 540, "GB": 0, "DE": 60, "FR": 60, "IN": 330, "AU": 600}
_LANGUAGES = {
    "US": "en",
    "BR": "pt",
    "SE": "sv",
    "JP": "ja",
    "DE": "de",
    "FR": "fr",
    "MX": "es",
    "ES": "es",
    "IT": "it",
}

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class Dirt:
    """Shares of rows that go wrong on the way; a share of 0 leaves that dirt out.

    Malformed, future and conflicting rows add up to 0.04 %: what ingest rejects stays well under its 0.1 %.
    """

    duplicates: float = 0.003
    conflicts: float = 0.0001
    late: float = 0.01
    malformed: float = 0.0002
    future: float = 0.0001

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 <= getattr(self, field.name) <= 0.2:
                raise ValueError(f"dirt {field.name}: expected a share from 0 to 0.2, got {getattr(self, field.name)}")

    @classmethod
    def only(cls, kinds: tuple[str, ...]) -> "Dirt":
        """Keep the named kinds at their usual shares and leave out the others.

        Raises:
          ValueError: an unknown kind.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(kinds) - set(known))
        if unknown:
            raise ValueError(f"unknown dirt {', '.join(unknown)}; this world knows {', '.join(known)}")
        return cls(**{name: 0.0 for name in known if name not in kinds})


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Size, end, seed and dirt of a world.

    Attributes:
      events: plays and other events, before duplicates and malformed lines are added.
      end: last day, UTC.
    """

    users: int
    items: int
    events: int
    markets: int
    end: datetime.date
    days: int = 28
    seed: int = 7
    dirt: Dirt = Dirt()

    def __post_init__(self) -> None:
        limits = {
            "users": (MIN_USERS, 10**8),
            "items": (MIN_ITEMS, 10**8),
            "events": (100 * self.days, 10**10),
            "markets": (1, len(MARKETS)),
            "days": (1, 400),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"world {name}: expected {low} to {high}, got {getattr(self, name)}")

    @property
    def start_us(self) -> int:
        """First instant, us since the epoch."""
        return self.end_us - self.days * DAY_US

    @property
    def end_us(self) -> int:
        """Instant after the last one, us since the epoch."""
        return ((self.end - datetime.date(1970, 1, 1)).days + 1) * DAY_US

    @property
    def market_codes(self) -> tuple[str, ...]:
        """Markets of this world, the biggest first."""
        return MARKETS[: self.markets]

    def rng(self, part: str, chunk: int = 0) -> np.random.Generator:
        """Return the random numbers of one part of the world, independent of all other parts."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode()), chunk])


PRESETS: dict[str, dict[str, int]] = {
    "laptop": {"users": 5_000, "items": 20_000, "events": 200_000, "markets": 4},
    "ci": {"users": 50_000, "items": 100_000, "events": 2_000_000, "markets": 20},
    "bench": {"users": 500_000, "items": 300_000, "events": 10_000_000, "markets": 184},
}


def market_weights(markets: int) -> np.ndarray:
    """Return the share of users in each market, `(markets,) float64`, the biggest first (Zipf with exponent 1)."""
    weights = 1.0 / (np.arange(markets) + 1.5)
    return weights / weights.sum()


def utc_offsets(codes: tuple[str, ...]) -> np.ndarray:
    """Return the offset of local time of each market, `(markets,) int32` minutes."""
    return np.array([_UTC_OFFSETS.get(code, 60 * (zlib.crc32(code.encode()) % 15 - 5)) for code in codes], np.int32)


def languages(codes: tuple[str, ...]) -> list[str]:
    """Return the language of each market."""
    return [_LANGUAGES.get(code, "en") for code in codes]


def zipf_rank(draws: np.ndarray, sizes: np.ndarray, head: float = 5.0) -> np.ndarray:
    """Turn uniform draws into ranks below `sizes`, falling as 1 / (rank + head) (Zipf-Mandelbrot, exponent 1).

    Args:
      draws: `(n,) float64` in `[0, 1)`.
      sizes: `(n,)` list lengths, all positive.

    Returns:
      `(n,) int64`.
    """
    ranks = head * ((1.0 + sizes / head) ** draws - 1.0)
    return np.minimum(ranks.astype(np.int64), sizes - 1)


def hex_ids(prefix: str, numbers: np.ndarray, digits: int) -> pl.Series:
    """Spell numbers as a prefix and `digits` lower-case hexadecimal digits."""
    shifts = np.arange(digits - 1, -1, -1, dtype=np.uint64) * np.uint64(4)
    text = np.empty((len(numbers), len(prefix) + digits), np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    for column, shift in enumerate(shifts, len(prefix)):
        text[:, column] = _HEX[((numbers >> shift) & np.uint64(15)).astype(np.uint8)]
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * text.shape[1]
    strings = pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))
    return pl.Series(strings, dtype=pl.String)
