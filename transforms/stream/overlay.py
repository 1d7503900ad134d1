"""Home sets of whoever listened since the batch: the batch road's own functions over histories that go on.

    windows -> histories go on, users are embedded anew -> the sources of Home -> filters, blend -> one record per listener

Pure: a set is a function of a window and a bundle, whoever is made beside it. It lies on the listener's batch set, ends with
it, and explores the same items. Memory: that of the batch road for a block of as many (`transforms.retrieve`), and their
windows.
"""

import dataclasses
import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.candidates import CANDIDATE_SET
from schemas.policy import SurfacePolicy
from transforms.candidate_sets import POPULAR_LEVEL, Provenance
from transforms.facts import user_facts
from transforms.filters import Instant
from transforms.recommend import added, finished
from transforms.retrieve import user_audience
from transforms.sources import Source
from transforms.stream.live import LiveBundle
from transforms.stream.session import Window
from transforms.stream.sets import HOUR_US, Listening, asked, going_on, stamped, starting_at

LEFT_TO_BASE = "left_to_base"
_SEEN: dict[str, Any] = {"user_id": pl.String, "market": pl.String}


class Overlay(NamedTuple):
    """Sets in their contract, sorted by listener, and what the audit of them counted."""

    sets: pa.Table
    counters: dict[str, int]


@dataclasses.dataclass(frozen=True)
class HomeSets:
    """Make Home sets from one bundle.

    Attributes:
      bundle: its instant is the validity of the batch sets. base_sequence: theirs.
      sources: of users. group_sources: of markets, whose proposals the bundle has.
    """

    bundle: LiveBundle
    policy: SurfacePolicy
    sources: Mapping[str, Source]
    group_sources: Mapping[str, Source]
    provenance: Provenance
    base_sequence: int

    def without(self, tombstones: pl.DataFrame) -> "HomeSets":
        """Return what makes sets without anything, and for nobody, under these tombstones either."""
        return dataclasses.replace(self, bundle=self.bundle.without(tombstones))

    def __call__(self, windows: Mapping[str, Window]) -> Overlay:
        """Return a set for each listener whose window goes on, and of whom something personal is known.

        Who opted out of personalisation, asked to be deleted, or would be given charts or too little, has none: the batch set
        serves.
        """
        base, until = self.base_sequence, self.bundle.instant.expires_at
        newer = {user: window for user, window in sorted(windows.items()) if goes_on(window, base, until)}
        heard = [Listening.of(user, window) for user, window in newer.items()]
        hours: dict[int, list[Listening]] = {}
        for one in heard:
            hours.setdefault(one.last_event_ts // HOUR_US, []).append(one)
        blocks = [self._block(hour, own) for hour, own in sorted(hours.items())]
        tables = [CANDIDATE_SET.schema.empty_table(), *(sets for sets, _ in blocks)]
        return Overlay(pa.concat_tables(tables).sort_by("record_key"), added(counters for _, counters in blocks))

    def _block(self, hour: int, heard: Sequence[Listening]) -> Overlay:
        seen = pl.DataFrame([one.told[:2] for one in heard], schema=_SEEN, orient="row")
        users = self.bundle.listeners(seen).filter(~pl.col("personalization_opt_out"))
        if not users.height:
            return Overlay(CANDIDATE_SET.schema.empty_table(), {})
        users, instant = going_on(users, heard), self._instant(hour)
        embedded = functools.cache(
            functools.partial(self.bundle.embedded, users.select("user_id", "positives", "skips"))
        )
        bundle = dataclasses.replace(self.bundle, own_users=embedded)
        audience = user_audience(users, bundle, self.policy, instant)
        proposals, pool, left_out = asked(self.sources, audience, users, bundle)
        facts = user_facts(users, proposals, bundle.world, bundle, self.policy, instant, bundle.catalogue)
        facts = dataclasses.replace(facts, pool=pool)
        every = dict(self.sources) | dict(self.group_sources)
        provenance = dataclasses.replace(self.provenance, left_out=left_out)
        sets, counters = finished(proposals, facts, self.policy, instant, every, provenance)
        run = f"{self.policy.name}|{provenance.fields['run_id']}"
        return _better(stamped(sets, heard, run), counters, self.policy)

    def _instant(self, hour: int) -> Instant:
        """Return the validity of sets of an hour: to the end of the batch sets, with their seed."""
        base = self.bundle.instant
        return dataclasses.replace(base, effective_from=max(base.effective_from, starting_at(hour)))


def goes_on(window: Window, base_sequence: int, until: datetime.datetime) -> bool:
    """Tell whether a window says more than batch sets know, and of a listener, by when they expire."""
    newer = window.sequence > base_sequence and not window.overrun
    return newer and window.heard[-1].event_ts < until.timestamp() * 1e6


def _better(sets: pa.Table, counters: Mapping[str, int], policy: SurfacePolicy) -> Overlay:
    """Leave out what is no better than the batch set: charts, and what is shorter than it should be."""
    levels, sizes = sets["fallback_level"].to_numpy(), pc.list_value_length(sets["candidates"]).to_numpy()
    better = (levels < POPULAR_LEVEL) & (sizes >= policy.minimum_size)
    told = {"fallback_level_3_or_more": 0, "sets_below_minimum": 0, LEFT_TO_BASE: int((~better).sum())}
    return Overlay(sets.filter(pa.array(better)), {**counters, **told})
