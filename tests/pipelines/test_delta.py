"""Deltas over a published root: what changed is offered, or not, at once; and what is refused."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from memory_broker import Clock, MemoryBroker
from toy_heard import MINUTE, NOON, heard
from toy_road import days_ago, offer_in, table

from jobs import delta as command
from pipelines import delta as deltas
from pipelines.bundle import read_bundle
from pipelines.delta import POINTER, DeltaError, deltas_of
from pipelines.live import Following, live_on, open_home, open_live, open_sessions
from pipelines.stream import InBackground, Stream
from pipelines.stream_metrics import Metrics
from schemas.inputs import ITEM
from transforms.io.broker import EVENTS, SETS, Message
from transforms.io.state_store import StateStore
from transforms.io.store import LocalStore, open_store
from transforms.stream.debounce import PAUSE_S
from transforms.stream.messages import decode_set
from transforms.stream.session import Window
from transforms.stream.sessions import Sessions

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class World:
    """A root of its own, items of its catalogue, and what is delivered."""

    store: LocalStore
    tables: Path
    raw: Path
    cold: dict
    known: list[dict]

    def deliver(self, *items: dict, name: str = "changed") -> int:
        rows = table("item", items).select(ITEM.given_columns())
        (self.raw / name / "items").mkdir(parents=True, exist_ok=True)
        rows.write_parquet(self.raw / name / "items" / "part.parquet")
        return command.main(["--root", self.store.root, "--raw", str(self.raw / name)])

    @property
    def described(self) -> dict[str, bytes]:
        return {
            path: self.store.read_bytes(path) for path in [POINTER, *self.store.list("deltas")] if "lock" not in path
        }


@pytest.fixture(scope="module")
def world(small_road, tmp_path_factory) -> World:
    """A new item that reads like one nobody has played, one now offered elsewhere, one deleted, and one from an old delivery."""
    folder = tmp_path_factory.mktemp("delta")
    shutil.copytree(small_road.root, folder / "root")
    store = LocalStore(str(folder / "root"))
    before = open_live(store, folder / "tables")
    plain = (pl.col("item_type") == "track") & pl.col("availability").is_null() & ~pl.col("explicit")
    tracks = before.bundle.read("item", None, plain & pl.col("rec_eligible") & pl.col("deleted_at").is_null())
    tracks = tracks.filter(pl.col("release_ts") < days_ago(3), pl.col("item_id") == pl.col("canonical_id"))
    heard_of = before.bundle.read("vocabulary", ["item_id"], pl.col("positives") > 0)["item_id"]
    cold = tracks.sort("item_id").filter(~pl.col("item_id").is_in(heard_of.implode())).row(0, named=True)
    first = pl.Series(offered(before, session(cold["item_id"])))
    known = tracks.filter(pl.col("item_id").is_in(first.implode())).sort("item_id").head(3).to_dicts()
    made = World(store, folder / "tables", folder, cold, known)
    gone, elsewhere, old = known
    artist = {"artist_id": "new-artist", "name": "Somebody New", "role": "main"}
    released = {"release_ts": days_ago(2), "updated_at": days_ago(0)}
    assert made.deliver(
        cold | released | {"item_id": "new", "canonical_id": "new", "album_id": "new-album", "artists": [artist]},
        elsewhere | {"availability": [offer_in("ZZ")], "updated_at": days_ago(0)},
        gone | {"deleted_at": days_ago(0), "updated_at": days_ago(0)},
        old | {"title": "of an old delivery", "updated_at": old["updated_at"] - datetime.timedelta(days=1)},
    ) == 0  # fmt: skip
    return made


@pytest.fixture(scope="module")
def live(world):
    return open_live(world.store, world.tables)


HOURS = 60


def session(*items: str) -> Window:
    return Window.of(heard(12 * HOURS + 30 + m, item_id=item) for m, item in enumerate(items))


def offered(sets, window: Window, user: str = "nobody-knows-me") -> list[str]:
    (row,) = sets({user: window}).to_pylist()
    return [one["item_id"] for one in row["candidates"]]


def test_a_new_item_is_searched_beside_the_others(world, live):
    vectors = live.bundle.items()
    ids = vectors.ids.to_list()
    assert ids[-2:] == sorted(["new", world.known[1]["item_id"]])
    assert not {"new", *(one["item_id"] for one in world.known[:2])} & set(ids[:-2]), "what it replaces is hidden"
    rows = np.array([ids.index("new"), ids.index(world.cold["item_id"])])
    ours, theirs = vectors.index.take(rows)
    assert ours @ theirs > 0.5, "it reads alike"
    assert "new" in offered(live, session(world.cold["item_id"]))


def test_a_new_item_is_what_a_session_can_be_at(world, live):
    (row,) = live({"nobody-knows-me": session("new")}).to_pylist()
    assert row["context"]["seed_item_id"] == "new"
    assert any("np.similar" in {one["source_id"] for one in c["sources"]} for c in row["candidates"])


def test_home_offers_it_to_whoever_listens_to_what_is_near_it(world):
    home = open_home(world.store, world.tables, live_on(world.store, "home"))
    items = home.bundle.items()
    near = items.index.search(items.index.take(items.rows(pl.Series(["new"]))), 200).rows[0]
    played = home.bundle.read("vocabulary", ["item_id"], pl.col("positives") > 0)["item_id"]
    ids = [one for one in items.ids.gather(near).to_list() if one in set(played)]
    (row,) = home({"nobody-knows-me": session(*ids[:8])}).sets.to_pylist()
    assert "new" in {
        c["item_id"] for c in row["candidates"] for one in c["sources"] if one["source_id"] != "home.explore"
    }


def test_what_changed_acts_in_the_filters_at_once(world, live):
    gone, elsewhere, old = world.known
    rows = live.bundle.lookup("item", "item_id", pl.Series([one["item_id"] for one in world.known]))
    known = {row["item_id"]: row for row in rows.to_dicts()}
    assert known[gone["item_id"]]["deleted_at"] is not None
    assert known[elsewhere["item_id"]]["availability"][0]["market"] == "ZZ"
    assert known[old["item_id"]] == old, "a row delivered late is older than the bundle's"
    changed = {gone["item_id"], elsewhere["item_id"]}
    unchanged = dataclasses.replace(live_on(world.store, "now_playing"), deltas=()).opened(world.store, world.tables)
    window = session(world.cold["item_id"])
    assert changed <= set(offered(dataclasses.replace(live, bundle=unchanged), window))
    assert not changed & set(offered(live, window))


def test_reading_and_looking_up_agree(world, live):
    bundle = live.bundle
    everything = bundle.read("item").sort("item_id")
    assert everything["item_id"].is_unique().all()
    assert bundle.lookup("item", "item_id", everything["item_id"]).equals(everything)
    assert bundle.read("item", ["title"], pl.col("item_id") == "new")["title"].to_list() == [world.cold["title"]]
    assert bundle.lookup("item", "item_id", pl.Series(["new"]), ["title"]).columns == ["title"]


def test_sets_say_which_catalogue_they_are_of(world, live):
    (delta,) = deltas_of(world.store, live.provenance.fields["bundle_id"])
    assert live.provenance.fields["catalog_snapshot_id"].endswith(f"+{delta}")


def test_a_takedown_wins_over_a_delta(world, live):
    gone = [{"entity": "item", "id": "new", "reason": "licence", "effective_ts": days_ago(0)}]
    step = Sessions(live).without(table("tombstone", gone))
    (row,) = step.sets({"nobody-knows-me": session(world.cold["item_id"]).to_bytes()}).to_pylist()
    assert "new" not in {one["item_id"] for one in row["candidates"]}


def test_the_same_delivery_again_changes_no_byte(world):
    before = world.described
    assert command.main(["--root", world.store.root, "--raw", str(world.raw / "changed")]) == 0
    assert world.described == before


def test_a_delta_of_another_bundle_is_ignored(world, live):
    assert deltas_of(world.store, "another") == []


def test_the_stream_takes_a_delta_into_use_and_goes_on_without_a_broken_one(copy_road, world, tmp_path):
    store = open_store(str(copy_road.root))
    opens = functools.partial(open_sessions, folder=tmp_path / "tables")

    def fresh() -> Following:
        return Following(store, opens)

    following = fresh()
    step = following()
    window = {"nobody-knows-me": session(world.cold["item_id"]).to_bytes()}

    def sets(of) -> set[str]:
        (row,) = of.sets(window).to_pylist()
        return {one["item_id"] for one in row["candidates"]}

    assert "new" not in sets(step)
    for path in [path for path in world.store.list("") if not store.exists(path)]:
        store.write_bytes(path, world.store.read_bytes(path))
    after = following()
    assert "new" in sets(after)
    assert following() is None
    told = json.loads(store.read_bytes(POINTER))
    (file,) = [path for path in _files(store, told["deltas"][0]) if path.endswith("part-00000.parquet")][:1]
    store.write_bytes(file, store.read_bytes(file)[:-1])
    store.write_bytes(POINTER, json.dumps(told).encode())
    with pytest.raises(DeltaError, match=r"delta .* has sha256 .* run make delta on what changed again"):
        following()
    assert (begun := fresh())().bundle == after.bundle, "a start has nothing else to serve"
    assert "has sha256" in begun.refused
    assert not following.refused
    store.write_bytes(POINTER, b"{")
    with pytest.raises(DeltaError, match=r"live/deltas.json names no deltas .* delete it"):
        following()
    assert "new" not in sets((begun := fresh())())
    assert "names no deltas" in begun.refused
    store.write_bytes(POINTER, json.dumps(told | {"deltas": ["unheard-of"]}).encode())
    with pytest.raises(DeltaError, match=r"delta unheard-of: deltas/unheard-of/delta.json cannot be read"):
        following()
    store.delete(POINTER)
    assert "new" not in sets(following())


def test_what_is_delivered_into_one_folder_is_one_delta_however_often_it_is_read(copy_road, world, tmp_path):
    store, raw = open_store(str(copy_road.root)), tmp_path / "deliveries"
    (raw / "items").mkdir(parents=True)
    shutil.copy(world.raw / "changed" / "items" / "part.parquet", raw / "items" / "1.parquet")
    told = []
    for number in (2, 3):
        assert command.main(["--root", store.root, "--raw", str(raw)]) == 0
        told.append(json.loads(store.read_bytes(POINTER))["deltas"])
        more = world.cold | {"item_id": f"new-{number}", "updated_at": days_ago(0)}
        table("item", [more]).select(ITEM.given_columns()).write_parquet(raw / "items" / f"{number}.parquet")
    assert [len(deltas) for deltas in told] == [1, 1]
    assert told[0] != told[1], "the second holds what the first does"
    found = open_live(store, tmp_path / "tables").bundle.lookup("item", "item_id", pl.Series(["new", "new-2", "new-3"]))
    assert sorted(found["item_id"]) == ["new", "new-2"]
    assert command.main(["--root", store.root, "--raw", str(world.raw / "changed")]) == 0
    assert json.loads(store.read_bytes(POINTER))["deltas"] == [*told[1], *told[0]], "read by itself it is one of two"


class AtOnce:
    """A pool that does what it is given at once."""

    def submit(self, work) -> concurrent.futures.Future:
        done = concurrent.futures.Future()
        done.set_result(work())
        return done


TAKES_S = 120
"""Of the job, on the toy clock: more than it takes beside a catalogue of 60,000 (docs/streaming.md)."""


def test_a_new_item_is_proposed_by_a_stream_at_work_within_ten_minutes_of_its_delivery(copy_road, world, tmp_path):
    """Delivered a moment after the job last looked: a whole period passes before it is read."""
    ((every,),) = [re.findall(r"`\*/(\d+) \* \* \* \* make delta", (REPOSITORY / "docs/streaming.md").read_text())]
    store, clock = open_store(str(copy_road.root)), Clock((NOON + (12 * HOURS + 30) * MINUTE) / 1e6)
    broker, following = (
        MemoryBroker(clock),
        Following(store, functools.partial(open_sessions, folder=tmp_path / "tables")),
    )
    first, reload = following(), InBackground(following)
    reload._pool = AtOnce()
    with contextlib.closing(StateStore(tmp_path / "state")) as state:
        stream = Stream(
            broker=broker, store=state, step=first, metrics=Metrics(), code_version="1", reload=reload, clock=clock,
            stop=clock, say=print,
        )  # fmt: skip

        def hear(number: int) -> set[str]:
            """Let a listener play what reads like the new item; return what is proposed then."""
            at = datetime.datetime.fromtimestamp(clock.now, datetime.UTC).isoformat()
            told = {
                "event_id": f"e{number}", "schema_version": 1, "event_type": "play", "event_ts": at, "ingest_ts": at,
                "user_id": "nobody-knows-me", "item_id": world.cold["item_id"], "item_type": "track", "ms_played": 60_000,
                "item_duration_ms": 200_000, "market": "SE",
            }  # fmt: skip
            broker.publish(EVENTS, [Message(json.dumps(told).encode(), {})])
            stream.tick()
            return {one["item_id"] for one in decode_set(broker.published[SETS][-1].data)["candidates"]}

        delivered = clock.now
        assert "new" not in hear(0)
        clock.now += 60 * int(every) + TAKES_S
        assert "new" not in hear(1)
        assert command.main(["--root", store.root, "--raw", str(world.raw / "changed")]) == 0
        served, number = clock.now, 2
        while "new" not in hear(number):
            clock.now += PAUSE_S
            number += 1
            assert clock.now - served < 10, "the stream looks every second"
        assert clock.now - delivered <= 600
        assert stream.metrics.total("swaps") == 1


def _files(store, delta: str) -> list[str]:
    parts = json.loads(store.read_bytes(f"deltas/{delta}/delta.json"))["parts"]
    return [path for part in parts.values() for path in store.list(part["manifest"].removesuffix("/manifest.json"))]


def test_what_is_wrong_with_a_delivery_is_said(world, tmp_path, capsys, monkeypatch):
    before = world.described
    monkeypatch.setattr(deltas, "LEAST_ROWS", 3)
    monkeypatch.setattr(deltas, "MOST", 0.001)
    assert command.main(["--root", world.store.root, "--raw", str(world.raw / "changed")]) == 1
    assert "deltas of 4 items would lie beside a catalogue of" in capsys.readouterr().err
    assert command.main(["--root", str(tmp_path / "empty"), "--raw", str(world.raw)]) == 1
    assert "nothing is live under" in capsys.readouterr().err
    assert command.main(["--root", world.store.root, "--raw", str(tmp_path / "nowhere")]) == 1
    assert "raw_files: no" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--root", world.store.root, "--raw", "x", "--fast"])
    assert "unknown arguments: --fast" in capsys.readouterr().err
    assert world.described == before
    assert read_bundle(world.store, json.loads(before[POINTER])["bundle"])
