"""Decode, check, deduplicate and label what comes in; split it by the stable hash of its key.

Events take two exchanges: by user, which is how everything later reads them, and by event id (hashes only), which is
where copies of one id under different users meet. Everything else takes one, by key.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Callable

import apache_beam as beam
import polars as pl
import pyarrow as pa

from schemas.contract import Contract, per_contract
from schemas.hashing import shard_of
from schemas.inputs import EVENT, ITEM, SESSION_GAP_S
from schemas.rules import Required, dump_rules, load_rules
from transforms.catalogue_counts import count_catalogue
from transforms.decode import DETAIL, POSITION, PRIVATE_FIELDS, RULE, Decoded, decode, payloads
from transforms.label import LABEL_VERSION, label_strength
from transforms.shards import TARGET, EmitParts, MergeParts, Output, Part, Shard, Task, Workspace
from validation.campaign_gates import REFUSED
from validation.event_gates import OF_UNKNOWN_USERS, USERS_KNOWN
from validation.rows import split_rows
from validation.statistics import KEEP_DAYS

SOURCE = "__source"
_ID_1, _ID_2, _USER_SHARD = "__id_1", "__id_2", "__user_shard"
_ROW, _BEGAN = "__row", "__began"
_DUPLICATE, _CONFLICT, _ERASED = "duplicate", "event_id:conflict", "erased"
FILLED = frozenset({"session_id", "canonical_id", "explicit", "rec_eligible"})
Refuse = Callable[[pl.DataFrame, Shard], pl.DataFrame]
_WHERE = {SOURCE: pl.String, POSITION: pl.Int64}


@per_contract
def given_contract(contract: Contract) -> Contract:
    """Return the contract of the raw rows: the given columns, where what can be derived may be missing."""
    fields = [contract.schema.field(name) for name in contract.given_columns()]
    return dataclasses.replace(
        contract, shard_by=None, schema=pa.schema([_optional(f) if f.name in FILLED else f for f in fields])
    )


def _optional(field: pa.Field) -> pa.Field:
    metadata = dict(field.metadata or {})
    rules = load_rules(metadata.get(b"rules", b"[]").decode())
    kept = tuple(rule for rule in rules if rule != Required())
    return field.with_nullable(True).with_metadata({**metadata, b"rules": dump_rules(kept).encode()})


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """Raw rows after the row rules, and the rejections of the file so far.

    Attributes:
      rows: given columns, `__source`, `__position`.
      rejected: rows of the `rejection` contract.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    total: int


def check_files(shard: Shard, contract: Contract, code_version: str) -> Checked:
    """Decode the raw files of a task and apply the row rules of their contract."""
    files = zip(shard.paths("raw"), shard.task.inputs["name"], strict=True)
    each = [_named(decode(path, contract, shard.task.span), name) for path, name in files]
    rows, rejected = pl.concat([one.rows for one in each]), pl.concat([one.rejected for one in each])
    return check_rows(Decoded(rows, rejected, sum(one.total for one in each)), contract, None, code_version)


def _named(decoded: Decoded, name: str) -> Decoded:
    source = pl.lit(name).alias(SOURCE)
    return Decoded(decoded.rows.with_columns(source), decoded.rejected.with_columns(source), decoded.total)


def check_rows(decoded: Decoded, contract: Contract, source: str | None, code_version: str) -> Checked:
    """Split decoded rows by the row rules; a broken row is rejected under the first rule it broke.

    Args:
      source: name of the raw file; None where rows and rejections have it in `__source`.
    """
    decoded = decoded if source is None else _named(decoded, source)
    good, bad = split_rows(decoded.rows, given_contract(contract))
    rejected = decoded.rejected
    if bad.height:
        details = [f"{_column(rule)}={_shown(row, rule)}" for rule, row in zip(bad[RULE], bad.iter_rows(named=True))]
        shown = pl.Series(DETAIL, details, pl.String), pl.Series("payload", payloads(bad.drop(RULE)), pl.String)
        broken = bad.select(POSITION, RULE, *shown, SOURCE)
        rejected = pl.concat([rejected.select(broken.columns), broken])
    return Checked(good, rejections(rejected, contract, code_version), decoded.total)


def _column(rule: str) -> str:
    return rule.split(":")[0]


def _shown(row: dict, rule: str) -> str:
    name = _column(rule)
    return "a private value" if name in PRIVATE_FIELDS else str(row.get(name))[:100]


def rejections(frame: pl.DataFrame, contract: Contract, code_version: str) -> pl.DataFrame:
    """Bring `__source`, `__position`, `rule`, `detail` and `payload` to the rejection contract."""
    return frame.select(
        pl.lit(contract.name).alias("dataset"),
        pl.lit(f"ingest_{contract.name}").alias("stage"),
        RULE,
        DETAIL,
        pl.col(SOURCE).alias("source"),
        pl.col(POSITION).cast(pl.Int64).alias("position"),
        "payload",
        pl.lit(code_version).alias("code_version"),
    )


@dataclasses.dataclass
class IngestEvents(beam.PTransform):
    """Turn raw event files into event shards, one file per day and shard of users."""

    workspace: Workspace
    targets: dict[str, Task]

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[str]:
        """Return the names of the shards done."""
        num_shards, code_version = len(self.targets), self.workspace.code_version
        emitted = tasks | "Decode" >> EmitParts(self.workspace, EmitEvents(num_shards, code_version))
        repeats = (
            emitted
            | "KeepIds" >> beam.Filter(_is_id_part)
            | "GroupIds" >> beam.GroupByKey()
            | "NameIdShards" >> beam.MapTuple(_id_task)
            | "FindRepeats" >> EmitParts(self.workspace, find_repeats)
        )
        return (
            (emitted | "KeepEvents" >> beam.Filter(_is_event_part), repeats)
            | "WithRepeats" >> beam.Flatten()
            | "Merge" >> MergeParts(self.workspace, MergeEvents(code_version), self.targets)
        )


def _is_id_part(part: Part) -> bool:
    return part[1][0] == "ids"


def _is_event_part(part: Part) -> bool:
    return part[1][0] != "ids"


def _id_task(target: str, parts) -> Task:
    return Task(f"repeats-{target}", int(target), {"ids": tuple(sorted(path for _, path in parts))})


@dataclasses.dataclass(frozen=True)
class EmitEvents:
    """Decode one raw file and split it: events by user shard, id hashes by id shard, rejections beside the events."""

    num_shards: int
    code_version: str

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        checked = check_files(shard, EVENT, self.code_version)
        users = shard_of(checked.rows["user_id"].to_arrow(), self.num_shards)
        rows = checked.rows.with_columns(pl.Series(_USER_SHARD, users, pl.Int32), *_id_hashes())
        ids = rows.select(_ID_1, _ID_2, _USER_SHARD, "ingest_ts", (pl.col(_ID_1) % self.num_shards).alias(TARGET))
        spread = f"{shard.number % self.num_shards:05d}"
        rejected = checked.rejected.with_columns(pl.lit(spread).alias(TARGET))
        totals = pl.DataFrame({TARGET: [spread], "lines": [checked.total]})
        return {
            "events": rows.drop(_ID_1, _ID_2, _USER_SHARD).with_columns(_target(pl.Series(users)).alias(TARGET)),
            "ids": ids.with_columns(_target(ids[TARGET]).alias(TARGET)),
            "rejected": rejected,
            "totals": totals,
        }


def _target(numbers: pl.Series) -> pl.Series:
    return numbers.cast(pl.String).str.zfill(5)


def _id_hashes() -> list[pl.Expr]:
    """Hash event ids to 128 bits: at 10^10 events the odds that two ids collide are below 10^-18."""
    return [pl.col("event_id").hash(1).alias(_ID_1), pl.col("event_id").hash(2).alias(_ID_2)]


def find_repeats(shard: Shard) -> dict[str, pl.DataFrame]:
    """Find ids that occur under users of different shards; all but the copy received first are conflicts.

    Memory: 28 bytes per event of one id shard.
    """
    ids = shard.parts("ids", {})
    suspects = ids.filter(pl.col(_ID_1).is_duplicated()).sort(_ID_1, _ID_2, "ingest_ts", _USER_SHARD)
    first = suspects.group_by(_ID_1, _ID_2, maintain_order=True).agg(pl.col(_USER_SHARD).first().alias("kept"))
    lost = suspects.join(first, on=[_ID_1, _ID_2]).filter(pl.col(_USER_SHARD) != pl.col("kept"))
    lost = lost.select(_ID_1, _ID_2, _USER_SHARD).unique().sort(_ID_1, _ID_2, _USER_SHARD)
    return {"repeats": lost.with_columns(_target(lost[_USER_SHARD]).alias(TARGET)).drop(_USER_SHARD)}


@dataclasses.dataclass(frozen=True)
class MergeEvents:
    """Deduplicate, label and order the events of one user shard; one file per day.

    Memory: the events of one shard of users.
    """

    code_version: str

    def __call__(self, shard: Shard) -> Output:
        columns = dict.fromkeys(EVENT.given_columns(), pl.Null) | _WHERE
        events = shard.parts("events", columns)
        conflicts = shard.parts("repeats", {_ID_1: pl.UInt64, _ID_2: pl.UInt64})
        rejected = [shard.parts("rejected", {})] if shard.task.inputs.get("rejected") else []
        totals = int(shard.parts("totals", {"lines": pl.Int64})["lines"].sum())
        users = shard.read("user", ["user_id"])["user_id"]
        if not events.height:
            return self._nothing(rejected, totals, {USERS_KNOWN: users.len()})
        kept, lost = deduplicate(events, conflicts)
        kept, erased = self._erase(shard, kept)
        refused = _lost_rows(lost.filter(pl.col(RULE) == _CONFLICT), self.code_version)
        counters = {"duplicates": int((lost[RULE] == _DUPLICATE).sum()), "erased": erased} | count_unknown(kept, users)
        refusals = pl.concat([*rejected, refused])
        if not kept.height:
            return self._nothing([refusals], totals, counters)
        return Output(label_events(kept), totals, refusals, counters, by_day=True)

    def _nothing(self, rejected: list[pl.DataFrame], totals: int, counters: dict[str, int]) -> Output:
        empty = pl.from_arrow(EVENT.schema.empty_table())
        return Output(empty, int(totals), pl.concat(rejected) if rejected else None, counters)

    def _erase(self, shard: Shard, events: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """Drop the events of users whose erasure was asked for: nothing later may learn from them."""
        gone = shard.read("tombstone", ["id"], pl.col("entity") == "user")["id"]
        asked = shard.read("user", ["user_id"], pl.col("deletion_requested_at").is_not_null())["user_id"]
        kept = events.filter(~pl.col("user_id").is_in(pl.concat([gone, asked]).implode()))
        return kept, events.height - kept.height


def count_unknown(events: pl.DataFrame, users: pl.Series) -> dict[str, int]:
    """Return the counters of users known, and by date of the events of users who are not; the latest dates that statistics keep.

    Args:
      events: `user_id` and `event_ts`. users: ids of the snapshot, of the same shard.
    """
    dates = events.select(
        pl.col("event_ts").dt.date().alias("date"), pl.col("user_id").is_in(users.implode()).alias("known")
    )
    counted = dates.filter(~pl.col("known")).group_by("date").len().sort("date").tail(KEEP_DAYS)
    return {USERS_KNOWN: users.len()} | {f"{OF_UNKNOWN_USERS}{date}": n for date, n in counted.rows()}


def deduplicate(events: pl.DataFrame, conflicts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep one row per event id: the copy received first.

    A later copy with the same payload is a duplicate; one with another payload is a conflict, and so are ids in
    `conflicts`, of which a copy under another user was received earlier. The order of `events` does not matter.

    Returns:
      The rows kept, and the others with column `rule`.
    """
    repeated = pl.col("event_id").is_duplicated()
    single, suspects = events.filter(~repeated), events.filter(repeated)
    payload = [name for name in events.columns if name not in ("ingest_ts", SOURCE, POSITION)]
    everything = pl.struct(payload).struct.json_encode()
    suspects = suspects.with_columns(everything.alias("__payload")).sort(
        "event_id", "ingest_ts", "__payload", SOURCE, POSITION
    )
    same = pl.col("__payload") == pl.col("__payload").first().over("event_id")
    judged = suspects.with_columns(
        pl.when(pl.col("event_id").is_first_distinct())
        .then(None)
        .when(same)
        .then(pl.lit(_DUPLICATE))
        .otherwise(pl.lit(_CONFLICT))
        .alias(RULE)
    ).drop("__payload")
    kept = pl.concat([single, judged.filter(pl.col(RULE).is_null()).drop(RULE)])
    lost = judged.filter(pl.col(RULE).is_not_null())
    if not conflicts.height:
        return kept, lost
    hashed = kept.with_columns(*_id_hashes())
    elsewhere = hashed.join(conflicts, on=[_ID_1, _ID_2], how="semi").drop(_ID_1, _ID_2)
    kept = hashed.join(conflicts, on=[_ID_1, _ID_2], how="anti").drop(_ID_1, _ID_2)
    return kept, pl.concat([lost, elsewhere.with_columns(pl.lit(_CONFLICT).alias(RULE))])


def label_events(events: pl.DataFrame) -> pl.DataFrame:
    """Derive missing session ids, add date and label, and order events by date, user, time and id.

    A session that the producer did not name begins after 30 minutes without an event, and is called after its first.
    """
    # Only what decides the order is sorted; the rest follows once, from one chunk, which is ten times as fast.
    keys = events.select("user_id", "event_ts", "event_id").with_row_index(_ROW).sort("user_id", "event_ts", "event_id")
    gap = pl.col("event_ts").diff() > datetime.timedelta(seconds=SESSION_GAP_S)
    starts = (pl.col("user_id") != pl.col("user_id").shift()).fill_null(True) | gap
    began = pl.when(starts).then(pl.col("event_ts").dt.epoch("ms")).forward_fill()
    date = pl.col("event_ts").dt.date()
    order = keys.select(_ROW, date.alias("event_date"), began.alias(_BEGAN)).sort("event_date", maintain_order=True)
    return (
        events.rechunk()
        .select(pl.all().gather(order[_ROW]))
        .with_columns(order[_BEGAN], order["event_date"])
        .with_columns(
            pl.coalesce("session_id", pl.format("{}@{}", "user_id", _BEGAN)).alias("session_id"),
            label_strength().alias("label"),
            pl.lit(LABEL_VERSION, pl.Int32).alias("label_version"),
        )
        .select(EVENT.schema.names)
    )


def _lost_rows(lost: pl.DataFrame, code_version: str) -> pl.DataFrame:
    detail = pl.lit("the id was received earlier with another payload").alias(DETAIL)
    shown = lost.with_columns(detail, pl.Series("payload", payloads(lost.drop(RULE)), pl.String))
    return rejections(shown, EVENT, code_version)


@dataclasses.dataclass(frozen=True)
class EmitRows:
    """Decode one raw file of a snapshot and split it by key shard."""

    contract: Contract
    num_shards: int
    code_version: str

    def __call__(self, shard: Shard) -> dict[str, pl.DataFrame]:
        checked = check_files(shard, self.contract, self.code_version)
        key = self.contract.shard_by or self.contract.key[0]
        targets = _target(pl.Series(shard_of(checked.rows[key].to_arrow(), self.num_shards)))
        spread = f"{shard.number % self.num_shards:05d}"
        return {
            "rows": checked.rows.with_columns(targets.alias(TARGET)),
            "rejected": checked.rejected.with_columns(pl.lit(spread).alias(TARGET)),
            "totals": pl.DataFrame({TARGET: [spread], "lines": [checked.total]}),
        }


@dataclasses.dataclass(frozen=True)
class MergeRows:
    """Keep one row per key of a snapshot shard and fill in what can be derived.

    Memory: one shard of the snapshot.

    Attributes:
      refuse: returns the rows that other datasets forbid, with `rule` and `detail`; they are counted as `refused`.
    """

    contract: Contract
    code_version: str
    refuse: Refuse | None = None

    def __call__(self, shard: Shard) -> Output:
        columns = dict.fromkeys(self.contract.given_columns(), pl.Null) | _WHERE
        rows = shard.parts("rows", columns)
        rejected = [shard.parts("rejected", {})] if shard.task.inputs.get("rejected") else []
        totals = int(shard.parts("totals", {"lines": pl.Int64})["lines"].sum())
        if not rows.height:
            empty = pl.DataFrame(self.contract.schema.empty_table())
            return Output(empty, totals, pl.concat(rejected) if rejected else None, self._counted(empty, 0))
        kept, lost, duplicates = latest(rows, self.contract)
        kept, lost, refused = self._without(kept, lost, shard)
        frame = complete(kept, self.contract).sort(self.contract.key)
        counters = {"duplicates": duplicates} | self._counted(frame, refused)
        return Output(
            frame, totals, pl.concat([*rejected, rejections(lost, self.contract, self.code_version)]), counters
        )

    def _without(self, kept: pl.DataFrame, lost: pl.DataFrame, shard: Shard) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        """Return the rows without those that are refused, the lost with them, and how many they are."""
        if self.refuse is None:
            return kept, lost, 0
        out = self.refuse(kept, shard)
        shown = pl.Series("payload", payloads(out.select(self.contract.given_columns())), pl.String)
        both = pl.concat([lost, out.with_columns(shown).select(lost.columns)])
        return kept.join(out, on=list(self.contract.key), how="anti", maintain_order="left"), both, out.height

    def _counted(self, frame: pl.DataFrame, refused: int) -> dict[str, int]:
        """Return what the checks of the snapshot ask for."""
        counted = count_catalogue(frame) if self.contract.name == ITEM.name else {}
        return counted if self.refuse is None else counted | {REFUSED: refused}


def latest(rows: pl.DataFrame, contract: Contract) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Keep the row updated last per key; equal copies count as duplicates, other older rows as superseded.

    Two different rows of one key and one update time contradict each other: the second (by payload) is rejected.

    Returns:
      Rows kept, rejected rows (`__source`, `__position`, `rule`, `detail`, `payload`), number of equal or older copies.
    """
    key, given = list(contract.key), contract.given_columns()
    single = rows.filter(~pl.struct(key).is_duplicated())
    suspects = rows.filter(pl.struct(key).is_duplicated())
    updated = pl.col("updated_at") if "updated_at" in given else pl.lit(None, pl.Datetime("us", "UTC"))
    suspects = suspects.with_columns(
        pl.struct(given).struct.json_encode().alias("__payload"), updated.alias("__updated")
    ).sort([*key, "__updated", "__payload"], descending=[*[False] * len(key), True, False], nulls_last=True)
    newest = suspects.filter(pl.struct(key).is_first_distinct())
    others = suspects.filter(~pl.struct(key).is_first_distinct())
    others = others.join(
        newest.select(*key, pl.col("__payload", "__updated").name.suffix("_kept")), on=key, maintain_order="left"
    )
    clash = (pl.col("__payload") != pl.col("__payload_kept")) & pl.col("__updated").eq_missing(pl.col("__updated_kept"))
    lost = others.filter(clash)
    refused = lost.select(
        SOURCE,
        POSITION,
        pl.lit(f"{'+'.join(key)}:conflict").alias(RULE),
        pl.lit("another row has the same key and update time").alias(DETAIL),
        pl.Series("payload", payloads(lost.select(given)), pl.String),
    )
    return pl.concat([single, newest.select(single.columns)]), refused, others.height - lost.height


def complete(rows: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Fill in the derived columns of a snapshot."""
    if contract.name == "item":
        texts = rows.select("title", "description", "artists", "genres").select(
            pl.struct(pl.all()).struct.json_encode()
        )
        digests = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts.to_series()]
        rows = rows.with_columns(
            pl.coalesce("canonical_id", "item_id").alias("canonical_id"),
            pl.col("explicit").fill_null(True),
            pl.col("rec_eligible").fill_null(True),
            pl.Series("text_hash", digests, pl.String),
        )
    return rows.select(contract.schema.names)
