"""Policy: what is tuned without touching code. Read from `jobs/surfaces.toml`; unknown keys are refused."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Set
from typing import Any

AUTO, EXACT, IVF = "auto", "exact", "ivf"
INDICES = (AUTO, EXACT, IVF)
WIDENED = {"np.transition": 0.5, "np.similar": 2.0, "np.familiar": 2.0}
"""What becomes of quotas where three fast skips in a row say that a set is off (domain reference, section 5)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Quota:
    """How many slots of a set one source may take.

    Attributes:
      minimum, target, maximum: slots; of the fallback, a maximum of a whole set is none. Minima are filled first; then the
        likeliest of all sources, up to their maxima, where chances are known (`transforms.calibrate`); else targets in step, then maxima in `flow` order. Of a source nothing was seen of while
        others are known, the chance is taken to halve at its target.
      personal: whether its candidates rest on the user's own (on Now Playing: the seed's own) behaviour.
      discovery: whether what the user played lately is taken out of it.
      leads: whether its candidates stand before all others, however likely they are taken up: what comes next in a show.
      newcomers: whether it is for those alone who have no history to go by; then it is not personal. Beyond its target it takes
        turns with the fallback, where chances are not known.
    """

    source_id: str
    minimum: int
    target: int
    maximum: int
    personal: bool
    discovery: bool
    leads: bool = False
    newcomers: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.target <= self.maximum or self.maximum == 0:
            raise ValueError(
                f"{self.source_id}: expected 0 <= minimum <= target <= maximum and maximum > 0, came"
                f" {self.minimum}/{self.target}/{self.maximum}"
            )
        if self.newcomers and self.personal:
            raise ValueError(
                f"{self.source_id}: expected personal = false of what is for newcomers, came true; they have told nothing"
            )

    @property
    def widened(self) -> "Quota":
        """The quota where a listener's set has been off."""
        by = WIDENED.get(self.source_id, 1.0)
        low, aim, high = (int(slots * by) for slots in (self.minimum, self.target, self.maximum))
        return dataclasses.replace(self, minimum=low, target=aim, maximum=max(high, 1))


@dataclasses.dataclass(frozen=True, slots=True)
class SurfacePolicy:
    """The recipe of one surface.

    Attributes:
      size: candidates in a full set. `minimum_size`: below it a set counts as short.
      fill_to: the fallback source fills a set only up to this size.
      fallback: the source that is always available, last in `flow`.
      explore: the source whose slots are drawn by lot and given to nobody else; empty where nothing is explored.
      flow: the order of sources among what is equally likely, or beyond their targets where nothing is known; all but `explore`.
      by_flow: whether an item is the first source's in this order that proposed it: chances are of what none before proposed too, and
        where none are known sets stand in this order, but for listeners at a loss. Else sources that agree add up, and without
        chances they stand in step.
      expires_hours: how long a set may be served after it takes effect.
      fresh_days: how long after its release an item counts as fresh.
      recent_skip_days: a skipped item stays out that long. `recent_play_days`: a played one, for discovery sources.
      artist_early, artist_early_slots: candidates of one artist among the first slots; `artist`: in the whole set.
      album, show, publisher: candidates of one album, show or publisher in the whole set.
      max_run: consecutive candidates of one artist; 0 means any.
      source_seconds: what one source may take for a shard; its sets go without one that takes longer. `live_seconds`: the same
        in the stream, for the listeners who are served together.
      page: slots a ranker shows at a time, for which content-type floors must suffice at any hour; 0: no floors.
      content_gap: how far below a listener's own share a kind of content may fall. talk_floor: share of talk for whoever
        ever listens to talk.
      fatigue_days: an item counts half that in as many days was shown `fatigue_impressions` times and not played since, or
        played `overplayed` times; 0 for either: never.
      holdout: share of listeners, the same on every surface and date, whose sets hold only the fallback source and what is explored:
        what training compares with; 0: nobody.
    """

    name: str
    size: int
    minimum_size: int
    fill_to: int
    fallback: str
    explore: str
    flow: tuple[str, ...]
    sources: tuple[Quota, ...]
    expires_hours: int
    fresh_days: int
    recent_skip_days: int
    recent_play_days: int
    artist_early: int
    artist_early_slots: int
    artist: int
    album: int
    show: int
    publisher: int
    max_run: int
    source_seconds: float
    page: int
    content_gap: float
    talk_floor: float
    fatigue_days: int
    fatigue_impressions: int
    overplayed: int
    live_seconds: float = 60.0  # sets whose policy was written down without it had no limit in the stream
    holdout: float = 0.0  # nor was anybody held out
    by_flow: bool = False  # and sources stood in step

    def __post_init__(self) -> None:
        names = [quota.source_id for quota in self.sources if quota.source_id != self.explore]
        if sorted(self.flow) != sorted(names):
            raise ValueError(
                f"surface {self.name}: flow must name each source once, but not explore {self.explore!r}; sources {names},"
                f" flow {list(self.flow)}"
            )
        if self.flow[-1] != self.fallback:
            raise ValueError(
                f"surface {self.name}: the fallback {self.fallback!r} must be last in flow, came {self.flow[-1]!r}"
            )
        if not self.minimum_size <= self.fill_to <= self.size:
            raise ValueError(
                f"surface {self.name}: expected minimum_size <= fill_to <= size, came"
                f" {self.minimum_size}/{self.fill_to}/{self.size}"
            )
        for name in ("content_gap", "talk_floor", "holdout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"surface {self.name}: {name} is a share from 0 to 1, came {getattr(self, name)}")
        for name in ("source_seconds", "live_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"surface {self.name}: {name} must be above 0 and finite, came {getattr(self, name)}")
        self._check_exploration()

    def _check_exploration(self) -> None:
        found = [quota for quota in self.sources if quota.source_id == self.explore]
        if not self.explore:
            return
        if not found or found[0].minimum != found[0].maximum or self.explore_slots >= self.size:
            quota = f"{found[0].minimum}/{found[0].target}/{found[0].maximum}" if found else "no quota"
            raise ValueError(
                f"surface {self.name}: explore {self.explore!r} needs a source with minimum = target = maximum, below the"
                f' size of {self.size}; came {quota}. Write its slots three times, or explore = "" to explore nothing'
            )

    @property
    def widened(self) -> "SurfacePolicy":
        """The policy with less of what usually follows, and more of what is alike and what is known."""
        return dataclasses.replace(self, sources=tuple(quota.widened for quota in self.sources))

    @property
    def by_seed(self) -> bool:
        """Tell whether a set is for what plays, not for who listens."""
        return self.name == "now_playing"

    @property
    def common(self) -> tuple[str, ...]:
        """The sources that propose the same to everybody of a market and tier."""
        return tuple(
            quota.source_id for quota in self.sources if not quota.personal and quota.source_id != self.explore
        )

    @property
    def explore_slots(self) -> int:
        """Slots of a set that are drawn by lot."""
        return next((quota.target for quota in self.sources if quota.source_id == self.explore), 0)


@dataclasses.dataclass(frozen=True, slots=True)
class RoadPolicy:
    """How events are counted.

    Attributes:
      window_days: events older than this count for nothing.
      *_half_life_days: age at which a tally weighs half.
      retrain_days: days for which one encoder serves; in between, only what changed is embedded.
      encoder_epochs: passes over the histories at the most.
      calibration_half_life_days: age at which what came of a proposal weighs half.
      most_anew: share of the items that may be embedded anew while the encoder stays; more stops the run before it is spent.
      index: how vectors are searched among, one of `INDICES`; `auto`: an IVF-PQ index where it costs less than exact search.
    """

    window_days: int
    popularity_half_life_days: float
    co_listen_half_life_days: float
    transition_half_life_days: float
    retrain_days: int
    encoder_epochs: int
    calibration_half_life_days: float
    most_anew: float
    index: str

    def __post_init__(self) -> None:
        if not 0 < self.most_anew <= 1:
            raise ValueError(f"most_anew is a share above 0 and up to 1, came {self.most_anew}")
        if self.index not in INDICES:
            raise ValueError(f"index is one of {', '.join(INDICES)}, came {self.index!r}")
        for name in ("retrain_days", "encoder_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, came {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """All policy, with the digest that candidate sets carry as `policy_version`."""

    road: RoadPolicy
    surfaces: Mapping[str, SurfacePolicy]

    @property
    def version(self) -> str:
        """Digest of the content."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str) -> "Policy":
        """Build from the parsed TOML file `where`.

        Raises:
          ValueError: a key is unknown or missing, or the figures contradict each other.
        """
        _expect(tables, {"road", "surfaces"}, where)
        surfaces = {name: _surface(name, table, where) for name, table in tables["surfaces"].items()}
        return cls(_build(RoadPolicy, tables["road"], f"{where} [road]"), surfaces)


def _surface(name: str, table: Mapping[str, Any], where: str) -> SurfacePolicy:
    place = f"{where} [surfaces.{name}]"
    sources = tuple(
        _build(Quota, {"source_id": source, **quota}, f"{place} source {source}")
        for source, quota in table.get("sources", {}).items()
    )
    fields = {**table, "sources": sources, "flow": tuple(table.get("flow", ())), "name": name}
    return _build(SurfacePolicy, fields, place)


def _build(kind: type, fields: Mapping[str, Any], where: str) -> Any:
    every = dataclasses.fields(kind)
    optional = {field.name for field in every if field.default is not dataclasses.MISSING}
    _expect(fields, {field.name for field in every}, where, optional)
    return kind(**fields)


def _expect(fields: Mapping[str, Any], names: set[str], where: str, optional: Set[str] = frozenset()) -> None:
    unknown, missing = sorted(set(fields) - names), sorted(names - optional - set(fields))
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}")
