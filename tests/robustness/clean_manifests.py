"""Manifests of clean days in a row, of every dataset that is gated besides events: what stages count where nothing is wrong.

A cheap model: a service that grows by 0.2 % a day, has a twentieth more on weekends, and noise of 1 % on what people do.
"""

import dataclasses
import datetime
import math
import random
from collections.abc import Iterator

from toy_manifests import manifest

from schemas.catalogue import CONTRACTS
from schemas.manifest import Manifest
from validation.arm_gates import HELD_OUT, OTHERS
from validation.candidate_gates import TRENDS
from validation.score_gates import week_of_scores
from validation.statistics import ColumnStatistics, Statistics

LAST = datetime.date(2026, 3, 31)
WEEKS = 28
TALLIES = {
    "popularity_partial": 500_000, "popularity": 90_000, "artist_top": 30_000, "co_listen_partial": 3_000_000,
    "co_listen": 2_000_000, "transition_partial": 900_000, "transition": 700_000, "user": 200_000, "history": 150_000,
}  # fmt: skip
VECTORS = {"item_embedding": 99_000, "user_embedding": 150_000}
SOURCES = {"two_tower": 90, "co_listen": 70, "relisten": 30, "explore": 20, "popular_market": 60}
PERSONAL, EXPOSED = 150_000, 210
STRATA, HASHES, DRAWN = 12, 16, 20
_DAY_S = 86_400


@dataclasses.dataclass(frozen=True)
class Day:
    """One day of the model.

    Attributes:
      n: days after the first. chance: seeded by the world and the day.
    """

    date: datetime.date
    n: int
    chance: random.Random

    def about(self, usual: float, noise: float = 0.01) -> int:
        """Return a count that grows, is greater on weekends, and has noise."""
        weekend = 1.05 if self.date.weekday() >= 5 else 1.0
        return round(usual * 1.002**self.n * weekend * self.chance.gauss(1, noise))

    def share(self, usual: float, noise: float = 0.03) -> float:
        """Return a share with noise."""
        return usual * self.chance.gauss(1, noise)

    def poisson(self, mean: float) -> int:
        """Return a count of rare events (normal: only means above 20 are asked for)."""
        return max(0, round(self.chance.gauss(mean, mean**0.5)))


def clean_days(days: int, seed: int) -> list[dict[str, Manifest]]:
    """Return, for each of some days in a row, manifests by dataset."""
    every: list[dict[str, Manifest]] = []
    for n in range(days):
        date = LAST - datetime.timedelta(days=days - 1 - n)
        day = Day(date, n, random.Random(seed * 1_000_003 + n))
        weeks_ago = every[n - WEEKS]["exposure"].counters if n >= WEEKS else {}
        week = week_of_scores({}, "", [one["proposal"] for one in every[max(0, n - 7) : n]])
        made = {one.dataset: dataclasses.replace(one, date=date.isoformat()) for one in _made(day, weeks_ago, week)}
        every.append(made)
    return every


def _made(day: Day, weeks_ago: dict[str, int], week: dict[str, int]) -> Iterator[Manifest]:
    yield _items(day)
    for name, rows in TALLIES.items():
        yield _table(name, day.about(rows), rows_in=rows, counters={"machine_plays": round(day.share(rows / 5_000))})
    for name, rows in VECTORS.items():
        yield _vectors(name, day, day.about(rows))
    yield _index(day)
    learnt = {"weights": 10_000, "first_label_us": 2_000_000, "last_feature_us": 1_000_000}
    yield _table("training", 35, rows_in=day.about(1_000_000), counters=learnt)
    likes = day.about(4_000_000)
    yield _table("vocabulary", day.about(90_000), counters={"positives": likes, "positives_unknown": likes // 1_000})
    asked = day.about(PERSONAL)
    answered = {f"answered:{name}": round(asked * day.share(0.8, 0.01)) for name in SOURCES}
    yield _table(
        "proposal", day.about(50_000_000), counters={"asked": asked, **answered, **_scores(day, answered), **week}
    )
    yield _table("campaign", 40, counters={"refused": 0})
    yield _table("calibration", 900, rows_in=900)
    sets = _sets(day)
    yield sets
    yield _exposure(day, sets, weeks_ago)
    yield _table("tombstone_scan", 40, counters={"files": 400, "live_hits": 0, "overdue_hits": 0, "kept_hits": 0})


def _scores(day: Day, answered: dict[str, int]) -> dict[str, int]:
    """A hundred proposals a listener, over forty bins of which those in the middle hold most."""
    usual = [math.exp(-(((bin_ - 20) / 8) ** 2)) for bin_ in range(40)]
    return {
        f"scores:{name.removeprefix('answered:')}:{bin_}": max(
            1, round(100 * keys * day.share(share, 0.05) / sum(usual))
        )
        for name, keys in answered.items()
        for bin_, share in enumerate(usual)
    }


def _table(name: str, rows: int, **fields) -> Manifest:
    columns = {field.name: ColumnStatistics(nulls=rows // 50 * field.nullable) for field in CONTRACTS[name].schema}
    return manifest(name, Statistics(rows, columns, {}), **fields)


def _items(day: Day) -> Manifest:
    """A catalogue: releases come, few items go, and something changes until the last hour of the day."""
    rows = round(100_000 * 1.002**day.n * day.chance.gauss(1, 0.001))
    end = datetime.datetime.combine(day.date, datetime.time(), datetime.UTC).timestamp() + _DAY_S
    made = _table("item", rows)
    columns = made.statistics["columns"]
    columns["explicit"]["nulls"] = 0
    columns["description"]["nulls"] = round(rows * day.share(0.05))
    columns["rec_eligible"]["values"] = {"true": round(rows * day.share(0.97, 0.002)), "false": rows // 40}
    columns["updated_at"]["high"] = int((end - day.chance.uniform(0, 3_600)) * 1e6)
    eligible = columns["rec_eligible"]["values"]["true"]
    counters = {
        "items_of_strange_markets": 0,
        "items_of:track": rows,
        "described:track": round(rows * day.share(0.95, 0.005)),
    }
    counters |= {"eligible_in:*": eligible // 2, "users_in:SE": 150_000, "users_in:JP": 50_000, "users_in:IS": 900}
    counters |= {f"eligible_in:{market}": round(eligible * day.share(0.2)) for market in ("SE", "JP", "IS")}
    return dataclasses.replace(made, counters=counters)


def _vectors(name: str, day: Day, rows: int) -> Manifest:
    shares = {"mean_cosine_ppm": 0.1, "effective_rank_ppm": 0.6, "overlap_ppm": 0.85, "popularity_ppm": 0.12}
    counted = {share: round(1e6 * day.share(usual)) for share, usual in shares.items()}
    counters = counted | {"sampled": 2_000, "repeated": round(2_000 * day.share(0.01))}
    return _table(name, rows, rows_in=rows + round(rows * 0.0005), counters=counters)


def _index(day: Day) -> Manifest:
    rows, asked = day.about(VECTORS["item_embedding"]), 2_000
    counters = {"listed": rows, "asked_itself": asked, "itself": round(asked * min(1, day.share(0.998, 0.001)))}
    for of, wanted in (("", 200_000), ("[SE track]", 5_000), ("[JP episode]", 5_000)):
        counters |= {f"wanted{of}": wanted, f"hits{of}": round(wanted * min(1, day.share(0.985, 0.003)))}
    return _table("index", 3, rows_in=rows, counters=counters)


def _sets(day: Day) -> Manifest:
    """One user in eleven is new or opted out, and has charts; a few sets are short, or miss a floor."""
    sets = day.about(PERSONAL * 1.1)
    listeners = round(sets * day.share(0.91, 0.005))
    slots = {f"slots_by_source:{name}": round(sets * n * day.share(1)) for name, n in SOURCES.items()}
    own = round(listeners * day.share(0.005))
    counters = slots | dict.fromkeys(_none(), 0) | {
        "sets": sets, "slots": sum(slots.values()), "listeners": listeners, "fallback_of_listeners": own,
        "fallback_level_3_or_more": sets - listeners + own, "sets_below_minimum": round(sets * day.share(0.0003)),
        "content_floors": sets * 3, "content_floors_missed": round(sets * 3 * day.share(0.08)),
        "jaccard_pairs": 200, "jaccard_ppm_sum": round(200 * 1e6 * day.share(0.05)), "eligible_items": 97_000,
        "vectors_age_hours": 0, "indexes": 1, "indexes_of_other_vectors": 0,
        **{f"slots_released_days_ago:{age}": round(sets * day.share(0.5, 0.3)) for age in range(7)},
        **{f"eligible_released_days_ago:{age}": day.poisson(200) for age in range(7)},
        "replayed": 10_000, "replayed_sets_differ": day.poisson(1), "replayed_vectors_differ": 0,
    }  # fmt: skip
    for cells, prefix in ((STRATA, "track|new|"), (HASHES, "hash:")):
        mean = sets * DRAWN / cells
        for cell in range(cells):
            counters |= {f"explored:{prefix}{cell}": day.poisson(mean)}
            counters |= {f"explored_expected_ppm:{prefix}{cell}": round(1e6 * mean)}
    least = dict.fromkeys(("two_tower", "co_listen", "relisten"), 20)
    counters |= {f"granted_by_source:{name}": round(listeners * n * day.share(0.98, 0.01)) for name, n in least.items()}
    counters |= {f"placed_by_source:{name}": counters[f"slots_by_source:{name}"] for name in least}
    policy = {"sources": [{"source_id": name, "minimum": least.get(name, 0)} for name in SOURCES]}
    return _table("candidate_set", sets, qualifier="home", counters=counters, config={"policy": policy})


def _none() -> Iterator[str]:
    yield from ("empty_sets", "duplicate_items", "exploration_share_violations", "propensity_violations")
    for leak in ("market", "tier", "explicit", "age", "ineligible", "unreleased", "blocked", "hidden", "completed",
                 "recent_skip", "language", "video", "tombstone"):  # fmt: skip
        yield f"{leak}_violations"


def _exposure(day: Day, sets: Manifest, weeks_ago: dict[str, int]) -> Manifest:
    n, items = sets.counters["sets"], round(97_000 * 1.002**day.n)
    counters = {
        "sets": n, "slots_chosen": n * EXPOSED, "max_item_sets_chosen": round(n * day.share(0.03)),
        "top100_slots_chosen": round(n * EXPOSED * day.share(0.06)), "eligible_items": items,
        "covered_items": round(items * day.share(0.4, 0.01)), "gini_ppm": round(1e6 * day.share(0.6, 0.005)),
        "kept_users": 2_000, "kept_ppm": round(1e6 * day.share(0.75, 0.02)),
    }  # fmt: skip
    for arm, share, alike in ((OTHERS, 0.9, 0.1 * items), (HELD_OUT, 0.009, 900)):
        slots = round(n * 300 * share)
        bits = slots * 1000 * math.log2(slots / day.share(alike, 0.02))
        counters |= {f"offered:{arm}": slots, f"offered_millibits:{arm}": round(bits)}
    before = {f"weeks_ago:{name}": weeks_ago[name] for name in TRENDS if weeks_ago}
    return _table("exposure", counters["covered_items"], qualifier="home", counters=counters | before)
