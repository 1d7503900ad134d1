"""A root with one finished road of five users and seven items, small enough to know every figure by heart."""

import dataclasses
import datetime
import json

import polars as pl
import pyarrow as pa

from schemas.candidates import CANDIDATE_SET, EXPOSURE, REJECTION
from schemas.contract import Contract
from schemas.hashing import shard_of
from schemas.inputs import EVENT, ITEM
from schemas.manifest import CheckResult, DataFile, InputRef, Manifest
from schemas.tallies import HISTORY
from transforms.io.store import LocalStore, file_digest
from transforms.io.tables import conform, write_parquet

DAY = "2026-01-31"
END = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
EVIL = "<script>alert('x')</script> & Sons"
ANN, BOB, KID, TALKER = "ann-0001-secret", "bob-0002-secret", "kid-0003-secret", "tal-0004-secret"
SHARDS = 2
POLICY = {
    "size": 4, "minimum_size": 2, "fill_to": 3, "fallback": "home.popular_market",
    "flow": ["home.co_listen", "home.popular_market"],
    "sources": [
        {"source_id": "home.co_listen", "minimum": 1, "target": 2, "maximum": 4, "personal": True, "discovery": True},
        {"source_id": "home.popular_market", "minimum": 0, "target": 1, "maximum": 4, "personal": False,
         "discovery": False},
    ],
}  # fmt: skip
ITEMS = {
    "t1": ("track", "First Song", "Alba", None),
    "t2": ("track", EVIL, "Bruno", None),
    "t3": ("track", "Third Song", "Alba", None),
    "e1": ("episode", "Pilot", None, "s1"),
    "s1": ("show", "The Evening Show", None, None),
    "a1": ("artist", "Clara", "Clara", None),
    "t4": ("track", None, None, None),
}


def blank(contract: Contract, **values) -> dict:
    """Return a row of a contract: empty or zero where no value is given."""
    return {field.name: values[field.name] if field.name in values else _blank(field.type) for field in contract.schema}


def _blank(type_: pa.DataType):
    if pa.types.is_list(type_):
        return []
    if pa.types.is_struct(type_):
        return {field.name: None if field.nullable else _blank(field.type) for field in type_}
    if pa.types.is_string(type_):
        return ""
    if pa.types.is_boolean(type_):
        return False
    if pa.types.is_timestamp(type_):
        return END
    return datetime.date(2026, 1, 31) if pa.types.is_date(type_) else 0


def candidate(
    position: int, item_id: str, *sources: str, seed: str | None = None, familiarity: str = "new_artist"
) -> dict:
    """Return a candidate."""
    given = [
        {"source_id": name, "signal_type": "x", "seed_item_ids": [seed] if seed else [], "seed_event_ts": None,
         "source_rank": i, "raw_score": 1.0, "score_kind": "x", "calibrated_score": 1.0, "model_id": None,
         "model_version": None, "embedding_space_id": None, "index_id": None, "index_version": None}
        for i, name in enumerate(sources)
    ]  # fmt: skip
    reason = "because_you_listened" if sources[0] == "home.co_listen" else "popular_in_market"
    return {"item_id": item_id, "item_type": ITEMS[item_id][0], "canonical_id": item_id, "position": position,
            "blend_score": 1.0, "sources": given, "is_exploration": False, "propensity": 1.0, "stratum": None,
            "promo": None, "familiarity": familiarity, "is_fresh": False, "available_until": None,
            "reason_code": reason}  # fmt: skip


def a_set(key: str, level: int, candidates: list[dict], tier: str = "free", market: str = "SE", **more) -> dict:
    """Return a Home set."""
    counts = {"in": 9, "filtered_by_rule": [], "out": len(candidates)}
    given = {"candidate_set_id": f"id-{key}-{market}", "record_key": key, "user_id": key, "surface": "home",
             "context_key": f"market={market}" if key == "*" else "", "market": market, "tier": tier,
             "fallback_level": level, "degraded_reasons": [], "counts": counts, "candidates": candidates}  # fmt: skip
    return blank(CANDIDATE_SET, **(given | more))


def home_sets() -> list[dict]:
    """Return the Home sets of four users and of whoever nobody has seen."""
    popular = candidate(1, "t3", "home.popular_market")
    return [
        a_set(ANN, 0, [candidate(0, "t2", "home.co_listen", "home.popular_market", seed="t1"), popular]),
        a_set(BOB, 1, [candidate(0, "t4", "home.co_listen"), popular], market="US"),
        a_set(KID, 0, [candidate(0, "t3", "home.popular_market")], tier="kids"),
        a_set(TALKER, 1, [candidate(0, "e1", "home.co_listen", seed="e1", familiarity="known"), popular]),
        a_set("*", 3, [candidate(0, "t3", "home.popular_market")], degraded_reasons=["no_history"]),
    ]


def histories() -> list[dict]:
    """Return what the users liked, oldest first."""

    def liked(item_id: str, days: float) -> dict:
        when = END - datetime.timedelta(days=days)
        return {"item_id": item_id, "item_type": ITEMS[item_id][0], "event_ts": when, "label": 1.0, "session_id": None}

    listens = {ANN: [liked("t1", 9), liked("a1", 5), liked("t1", 2.5)], BOB: [liked("t3", 1)], KID: [liked("t1", 1)],
               TALKER: [liked("e1", 6 - i) for i in range(6)]}  # fmt: skip
    return [blank(HISTORY, user_id=user, positives=positives) for user, positives in listens.items()]


def items() -> list[dict]:
    """Return the catalogue."""
    return [
        blank(ITEM, item_id=item_id, item_type=kind, title=title, show_id=show, author=None,
              artists=[{"artist_id": f"id-{artist}", "name": artist, "role": None}] if artist else [])
        for item_id, (kind, title, artist, show) in ITEMS.items()
    ]  # fmt: skip


def rejections(count: int = 5) -> list[dict]:
    """Return rejected events."""
    payload = '{"user_id":"ann-0001-secret","title":"' + "<b>bold</b>" + '"}'
    return [
        blank(REJECTION, dataset="event", stage="ingest_event", rule="event_ts:type", source="events/a.jsonl",
              position=i, detail="expected a timestamp, came 'soon'", payload=payload)
        for i in range(count)
    ]  # fmt: skip


@dataclasses.dataclass
class Root:
    """A root under construction."""

    store: LocalStore
    stages: list[dict] = dataclasses.field(default_factory=list)
    manifests: dict[str, str] = dataclasses.field(default_factory=dict)

    def write(self, contract: Contract, rows: list[dict], folder: str, shard_by: str | None) -> list[DataFile]:
        """Write rows into the files of their shards."""
        keys = pa.array([row[shard_by] for row in rows] if shard_by else [""] * len(rows), pa.string())
        shards = shard_of(keys, SHARDS)
        return [
            self._file(contract, [row for row, own in zip(rows, shards, strict=True) if own == shard], folder, shard)
            for shard in range(SHARDS)
        ]

    def _file(self, contract: Contract, rows: list[dict], folder: str, shard: int) -> DataFile:
        table = conform(pa.Table.from_pylist(rows, schema=contract.schema), contract)
        local, path = write_parquet(table), f"{folder}/part-{shard:05d}.parquet"
        digest = file_digest(local)
        self.store.put(local, path)
        return DataFile(path, digest, len(rows), 100, shard)

    def add(
        self, contract: Contract, rows: list[dict], qualifier: str = "", shard_by: str | None = None, **fields
    ) -> Manifest:
        """Commit a dataset and record its stage."""
        run = f"{contract.name}{qualifier}".ljust(16, "0")[:16]
        folder = f"data/{contract.name}/date={DAY}/run={run}"
        refused = fields.pop("refused", [])
        passed = CheckResult("rows_present", "statistics", "critical", "passed", len(rows), "at least 1")
        files = self.write(contract, rows, folder, shard_by)
        kept_out = tuple(self.write(REJECTION, refused, f"{folder}/rejected", None)) if refused else ()
        given = {"dataset": contract.name, "contract_version": "1.0.0", "fingerprint": contract.fingerprint,
                 "stage": contract.name, "qualifier": qualifier, "run": run, "date": DAY, "num_shards": SHARDS,
                 "code_version": "0.1.0+test", "config": {}, "inputs": (), "files": tuple(files),
                 "rejection_files": kept_out, "rows_in": len(rows) + len(refused), "rows_out": len(rows),
                 "rejected": {}, "counters": {}, "statistics": {}, "checks": (passed,)}  # fmt: skip
        manifest = Manifest(**(given | fields))
        self.store.write_bytes(manifest.path, manifest.to_json().encode())
        self.manifests[f"{contract.name}/{qualifier}"] = manifest.path
        self.stages.append({"stage": f"{contract.name} {qualifier}".strip(), "manifest": manifest.path,
                            "skipped": False, "seconds": 1.25, "peak_bytes": 3 * 2**20})  # fmt: skip
        return manifest

    def finish(self, released: dict[str, str]) -> None:
        """Write the run record."""
        record = {"date": DAY, "code_version": "0.1.0+test", "policy_version": "p1", "run_mode": "batch",
                  "num_shards": SHARDS, "manifests": self.manifests, "released": released,
                  "surfaces": sorted(released), "stages": self.stages}  # fmt: skip
        self.store.write_bytes(f"runs/date={DAY}/record.json", json.dumps(record).encode())


def ref(manifest: Manifest) -> InputRef:
    """Name a dataset as an input."""
    return InputRef(manifest.dataset, manifest.path, manifest.digest, manifest.rows_out)


def home_root(folder, *, exposure: bool = True, sets: list[dict] | None = None) -> LocalStore:
    """Write a root whose only surface is Home."""
    root = Root(LocalStore(str(folder)))
    raw = tuple(InputRef(f"raw_{name}", f"/raw/{name}s/a.jsonl", name * 8) for name in ("item", "event"))
    catalogue = root.add(ITEM, items(), shard_by="item_id", inputs=raw[:1])
    events = root.add(
        EVENT, [], inputs=raw[1:], refused=rejections(), rejected={"event_ts:type": 5}, rows_in=100, rows_out=95
    )
    heard = root.add(HISTORY, histories(), shard_by="user_id", inputs=(ref(events),))
    waived = CheckResult(
        "fallback_share", "statistics", "critical", "waived", 0.25, "W > 5 %", 5, "too <many> [waived by me]"
    )
    counters = {"sets": 5, "slots": 8, "slots_by_source:home.co_listen": 3, "slots_by_source:home.popular_market": 5,
                "removed:market": 4, "removed:quota": 12}  # fmt: skip
    chosen = root.add(CANDIDATE_SET, sets if sets is not None else home_sets(), "home", "record_key", counters=counters,
                      config={"policy": POLICY}, inputs=(ref(catalogue), ref(heard)), checks=(waived,))  # fmt: skip
    if exposure:
        rows = pl.DataFrame({"item_id": ["t2", "t3", "t4", "e1"], "sets": [1, 5, 1, 1], "sets_chosen": [1, 0, 1, 1]})
        counted = {"covered_items": 4, "slots": 8, "slots_chosen": 3, "max_item_sets_chosen": 1,
                   "top100_slots_chosen": 3, "gini_ppm": 375_000, "sets": 5, "eligible_items": 7}  # fmt: skip
        kinds = [blank(EXPOSURE, **row, item_type="track") for row in rows.to_dicts()]
        root.add(EXPOSURE, kinds, "home", "item_id", counters=counted, inputs=(ref(chosen),))
    root.finish({"home": "released"})
    return root.store
