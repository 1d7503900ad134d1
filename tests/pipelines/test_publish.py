import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from toy_road import days_ago, table

import pipelines.publish as publish_module
from pipelines.publish import (
    Overlays,
    PublishError,
    overlays_path,
    pointer_path,
    publish,
    read_pointer,
    rollback,
    undo_rollback,
)
from pipelines.runner import load_manifest
from schemas.catalogue import CONTRACTS
from schemas.inputs import TOMBSTONE
from schemas.manifest import CheckResult, DataFile, Manifest
from transforms.io.store import Store, StoreError, open_store
from transforms.io.tables import conform, write_parquet
from validation.declared import declared_checks


@pytest.fixture
def sets(store: Store) -> Manifest:
    pointer = read_pointer(store, "home")
    assert pointer is not None
    return load_manifest(store, pointer.manifest)


@pytest.fixture
def exposure(store: Store) -> Manifest:
    record = json.loads(store.read_bytes("runs/date=2026-01-31/record.json"))
    return load_manifest(store, record["manifests"]["exposure/home"])


def another(store: Store, sets: Manifest, run: str, date: str = "2026-01-31") -> Manifest:
    """Commit a copy of the sets as another run made them."""
    made = dataclasses.replace(sets, run=run, date=date)
    files = []
    for file in sets.files:
        path = f"{os.path.dirname(made.path)}/{os.path.basename(file.path)}"
        Path(store.local(path)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(store.local(file.path), store.local(path))
        files.append(dataclasses.replace(file, path=path))
    made = dataclasses.replace(made, files=tuple(files))
    store.write_bytes(made.path, made.to_json().encode())
    return made


def test_the_pointer_names_the_manifest_of_the_published_files(store: Store, sets: Manifest) -> None:
    fields = json.loads(store.read_bytes("live/home.json"))
    assert fields["manifest"] == sets.path
    assert fields["logical_date"] == "2026-01-31"
    assert sum(pq.read_metadata(store.local(file.path)).num_rows for file in sets.files) == sets.rows_out


def test_the_same_set_is_not_published_twice(store: Store, sets: Manifest, exposure: Manifest) -> None:
    before = store.read_bytes(pointer_path("home"))
    assert publish(store, "home", sets, exposure) == "already live"
    assert store.read_bytes(pointer_path("home")) == before


@pytest.mark.parametrize("outcome", ["failed", "broken"])
@pytest.mark.parametrize("which", ["sets", "exposure"])
def test_failed_checks_are_refused(outcome: str, which: str, store: Store, sets: Manifest, exposure: Manifest) -> None:
    bad = CheckResult("empty_sets", "statistics", "critical", outcome, 3.0, "0")
    later = another(store, sets, "later", "2026-02-01")
    given = {"sets": later, "exposure": exposure}
    given[which] = dataclasses.replace(given[which], checks=(bad,))
    with pytest.raises(PublishError, match="critical checks did not pass: empty_sets"):
        publish(store, "home", **given)
    assert read_pointer(store, "home").manifest == sets.path


@pytest.mark.parametrize("which", ["sets", "exposure"])
def test_what_was_not_checked_is_refused(which: str, store: Store, sets: Manifest, exposure: Manifest) -> None:
    given = {"sets": another(store, sets, "later", "2026-02-01"), "exposure": exposure}
    given[which] = dataclasses.replace(given[which], checks=())
    with pytest.raises(PublishError, match="no check at all is recorded, and what was not checked is not released"):
        publish(store, "home", **given)
    assert read_pointer(store, "home").manifest == sets.path


@pytest.mark.parametrize("which", ["sets", "exposure"])
@pytest.mark.parametrize("layer", ["statistics", "expectations"])
def test_a_critical_check_that_was_not_made_is_named(
    which: str, layer: str, store: Store, sets: Manifest, exposure: Manifest
) -> None:
    given = {"sets": another(store, sets, "later", "2026-02-01"), "exposure": exposure}
    declared = declared_checks(CONTRACTS[given[which].dataset])
    lost = next(check.name for check in given[which].checks if check.layer == layer and check.name in declared)
    others = tuple(check for check in given[which].checks if check.name != lost)
    given[which] = dataclasses.replace(given[which], checks=others)
    with pytest.raises(
        PublishError, match=f"none of {re.escape(lost)} is recorded, and what was not checked is not"
    ) as caught:
        publish(store, "home", **given)
    assert str(caught.value).startswith(f"{given[which].path}: none of {lost} is recorded")
    assert read_pointer(store, "home").manifest == sets.path


def test_a_warning_or_a_waiver_does_not_stop(store: Store, sets: Manifest, exposure: Manifest) -> None:
    found = {
        "fallback_share": CheckResult("fallback_share", "statistics", "warning", "failed", 0.3, "W > 20 %"),
        "sets_below_minimum": CheckResult("sets_below_minimum", "statistics", "critical", "waived", 0.3, "<= 0.1 %"),
    }
    checks = tuple(found.get(check.name, check) for check in sets.checks)
    later = dataclasses.replace(another(store, sets, "later", "2026-02-01"), checks=checks)
    assert publish(store, "home", later, exposure) == "released"


def test_an_older_date_is_kept_and_not_released(store: Store, sets: Manifest, exposure: Manifest) -> None:
    older = another(store, sets, "older", "2026-01-30")
    assert publish(store, "home", older, exposure) == "archived: 2026-01-31 is live, which is newer"
    assert read_pointer(store, "home").manifest == sets.path
    assert all(store.exists(file.path) for file in older.files)


def test_a_newer_set_is_released_and_can_be_rolled_back(store: Store, sets: Manifest, exposure: Manifest) -> None:
    later = another(store, sets, "later", "2026-02-01")
    assert publish(store, "home", later, exposure) == "released"
    pointer = read_pointer(store, "home")
    assert (pointer.manifest, pointer.previous) == (later.path, (sets.path,))
    back = rollback(store, "home")
    assert back == read_pointer(store, "home")
    assert (back.manifest, back.logical_date, back.previous) == (sets.path, "2026-01-31", ())
    with pytest.raises(PublishError, match=r"cannot be rolled back: no earlier set is kept"):
        rollback(store, "home")


def test_what_was_rolled_back_is_not_released_again_until_that_is_undone(
    store: Store, sets: Manifest, exposure: Manifest
) -> None:
    bad, good = another(store, sets, "bad", "2026-02-01"), another(store, sets, "good", "2026-02-01")
    publish(store, "home", bad, exposure)
    rollback(store, "home")
    assert publish(store, "home", bad, exposure).startswith("withdrawn: it was rolled back")
    assert read_pointer(store, "home").manifest == sets.path
    assert undo_rollback(store, "home") == read_pointer(store, "home")
    assert dataclasses.astuple(read_pointer(store, "home"))[1:6] == (bad.path, bad.date, bad.run, (sets.path,), ())
    rollback(store, "home")
    assert publish(store, "home", good, exposure) == "released"
    pointer = read_pointer(store, "home")
    assert (pointer.previous, pointer.withdrawn) == ((sets.path,), (bad.path,))
    with pytest.raises(PublishError, match="has no rollback to undo"):
        undo_rollback(store, "now_playing")


def test_a_pointer_from_before_there_was_withdrawing_is_read(store: Store, sets: Manifest) -> None:
    fields = json.loads(store.read_bytes(pointer_path("home")))
    del fields["withdrawn"]
    store.write_bytes(pointer_path("home"), json.dumps(fields).encode())
    assert read_pointer(store, "home").withdrawn == ()


def test_of_withdrawn_sets_the_last_three_keep_their_files(store: Store, sets: Manifest, exposure: Manifest) -> None:
    made = [another(store, sets, f"run{n}", f"2026-02-0{n}") for n in (1, 2, 3, 4)]
    for one in made:
        assert publish(store, "home", one, exposure) == "released"
        rollback(store, "home")
    assert read_pointer(store, "home").withdrawn == tuple(one.path for one in reversed(made[1:]))
    assert [all(store.exists(file.path) for file in one.files) for one in made] == [False, True, True, True]


def test_the_last_three_stay(store: Store, sets: Manifest, exposure: Manifest) -> None:
    made = [sets, *(another(store, sets, f"run{n}", f"2026-02-0{n}") for n in (1, 2, 3))]
    for one in made[1:]:
        assert publish(store, "home", one, exposure) == "released"
    pointer = read_pointer(store, "home")
    assert (pointer.manifest, *pointer.previous) == tuple(one.path for one in reversed(made[1:]))
    assert not any(store.exists(file.path) for file in sets.files)
    assert store.exists(sets.path)
    assert all(store.exists(file.path) for one in made[1:] for file in one.files)


@pytest.mark.parametrize("check", ["vectors_age", "index_of_vectors"])
def test_sets_on_vectors_of_another_day_are_neither_released_nor_rolled_back_to(check, store, sets, exposure) -> None:
    """`sets` rest on vectors of their own day; the same check that failed, or is not recorded, stops a release."""
    assert {one.name: one.outcome for one in sets.checks}[check] == "passed"
    stale = CheckResult(check, "statistics", "critical", "failed", 48, "B > 26 h")
    others = tuple(one for one in sets.checks if one.name != check)
    later = another(store, sets, "later", "2026-02-01")
    for checks, said in (((*others, stale), f"did not pass: {check}"), (others, f"none of {check} is recorded")):
        with pytest.raises(PublishError, match=said):
            publish(store, "home", dataclasses.replace(later, checks=checks), exposure)
    assert publish(store, "home", later, exposure) == "released"
    store.write_bytes(sets.path, dataclasses.replace(sets, checks=(*others, stale)).to_json().encode())
    with pytest.raises(PublishError, match=f"{re.escape(sets.path)}: critical checks did not pass: {check}"):
        rollback(store, "home")
    assert read_pointer(store, "home").manifest == later.path


def flip(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)


def test_a_tampered_file_is_refused(store: Store, sets: Manifest, exposure: Manifest) -> None:
    later = another(store, sets, "later", "2026-02-01")
    flip(store.local(later.files[0].path))
    with pytest.raises(PublishError, match="is not what was committed") as caught:
        publish(store, "home", later, exposure)
    assert later.files[0].path in str(caught.value)
    assert read_pointer(store, "home").manifest == sets.path


def test_a_missing_file_says_how_to_have_it_made_again(store: Store, sets: Manifest, exposure: Manifest) -> None:
    later = another(store, sets, "later", "2026-02-01")
    store.delete(later.files[0].path)
    with pytest.raises(PublishError, match=r"cannot be read .* run its date again: it is then made anew"):
        publish(store, "home", later, exposure)


def rewritten(store: Store, made: Manifest, change) -> Manifest:
    """Rewrite the first file of a set and commit it anew, digest and all."""
    file = made.files[0]
    table = pq.read_table(store.local(file.path))
    pq.write_table(change(table), store.local(file.path))
    new = DataFile(file.path, store.digest(file.path), file.rows, file.bytes, file.shard)
    return dataclasses.replace(made, files=(new, *made.files[1:]))


def test_a_file_of_another_contract_is_refused(store: Store, sets: Manifest, exposure: Manifest) -> None:
    later = another(store, sets, "later", "2026-02-01")
    odd = rewritten(store, later, lambda table: table.replace_schema_metadata({"fingerprint": "other"}))
    with pytest.raises(PublishError, match=f"contract fingerprint 'other', expected '{sets.fingerprint}'"):
        publish(store, "home", odd, exposure)


def test_a_record_that_is_never_valid_is_refused(store: Store, sets: Manifest, exposure: Manifest) -> None:
    def change(table):
        at = table.schema.get_field_index("expires_at")
        return table.set_column(at, table.schema.field(at), table["effective_from"])

    odd = rewritten(store, another(store, sets, "later", "2026-02-01"), change)
    with pytest.raises(PublishError, match="empty or never valid"):
        publish(store, "home", odd, exposure)


def test_a_rollback_to_a_tampered_set_is_refused(store: Store, sets: Manifest, exposure: Manifest) -> None:
    later = another(store, sets, "later", "2026-02-01")
    publish(store, "home", later, exposure)
    flip(store.local(sets.files[0].path))
    with pytest.raises(PublishError, match="is not what was committed"):
        rollback(store, "home")
    assert read_pointer(store, "home").manifest == later.path


def test_a_pointer_cut_off_by_a_full_disk_stays_whole(
    store: Store, sets: Manifest, exposure: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, before = another(store, sets, "later", "2026-02-01"), store.read_bytes(pointer_path("home"))

    def full(source: object, target: object) -> None:
        # what a reader would see at the last moment before the swap
        assert store.read_bytes(pointer_path("home")) == before
        assert json.loads(Path(str(source)).read_bytes())["manifest"] == later.path
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="the disk is full"):
            publish(store, "home", later, exposure)
    assert store.read_bytes(pointer_path("home")) == before
    assert [path for path in os.listdir(store.local("live")) if path.endswith(".tmp")] == []
    assert publish(store, "home", later, exposure) == "released"


def test_a_broken_pointer_is_named(store: Store) -> None:
    store.write_bytes(pointer_path("home"), b'{"surface": "home"')
    with pytest.raises(PublishError, match=r"live/home\.json is not a pointer"):
        read_pointer(store, "home")


def test_nothing_published_cannot_be_rolled_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_pointer(store, "home") is None
    with pytest.raises(PublishError, match="nothing was ever published"):
        rollback(store, "home")


# Tombstones that came after the sets were made.


def bury(store: Store, sets: Manifest, day: str, *gone: tuple[str, str]) -> Manifest:
    """Commit tombstones of `(entity, id)` as ingested as of a day."""
    (known,) = [load_manifest(store, ref.path) for ref in sets.inputs if ref.name == "tombstone"]
    rows = [{"entity": entity, "id": one, "reason": "legal", "effective_ts": days_ago(0)} for entity, one in gone]
    made = dataclasses.replace(known, run="newer", date=day, rows_out=len(rows))
    path = f"{os.path.dirname(made.path)}/part-00000.parquet"
    store.put(write_parquet(conform(table("tombstone", rows), TOMBSTONE)), path)
    made = dataclasses.replace(made, files=(DataFile(path, store.digest(path), len(rows), 1, 0),))
    store.write_bytes(made.path, made.to_json().encode())
    return made


@pytest.fixture
def gone(store: Store, sets: Manifest) -> dict[str, tuple[str, str]]:
    """A user who has a set, an item that is in one, and one that is in none."""
    rows = pl.concat([pl.read_parquet(store.local(file.path)) for file in sets.files])
    user = rows.filter(pl.col("record_key") != "*")["record_key"][-1]
    return {"user": ("user", user), "item": ("item", rows["candidates"][-1][-1]["item_id"]), "other": ("item", "i-0")}


@pytest.mark.parametrize(("entity", "told"), [("user", "holds 1 sets of erased"), ("item", " slots or seeds of items")])
def test_what_a_newer_tombstone_is_of_is_not_released(entity, told, store, sets, exposure, gone) -> None:
    later = another(store, sets, "later", "2026-02-01")
    newer = bury(store, sets, "2026-02-01", gone[entity], gone["other"])
    with pytest.raises(PublishError, match=r"Run the latest date again with these tombstones in RAW") as caught:
        publish(store, "home", later, exposure)
    assert told in str(caught.value)
    assert f"{later.path} holds" in str(caught.value)
    assert newer.path in str(caught.value)
    assert gone["user"][1] not in str(caught.value), "nobody is named"
    assert read_pointer(store, "home").manifest == sets.path


def test_what_is_in_no_set_or_was_withdrawn_before_the_day_stops_nothing(store, sets, exposure, gone) -> None:
    later = another(store, sets, "later", "2026-02-02")
    bury(store, sets, "2026-02-02", gone["other"])
    bury(store, sets, "2026-02-01", gone["item"])
    assert publish(store, "home", later, exposure) == "released"


@pytest.mark.parametrize("entity", ["user", "item"])
def test_a_rollback_brings_nothing_back_that_has_a_tombstone(entity, store, sets, exposure, gone) -> None:
    later = another(store, sets, "later", "2026-02-01")
    assert publish(store, "home", later, exposure) == "released"
    bury(store, sets, "2026-02-03", gone[entity])
    with pytest.raises(PublishError, match=f"{re.escape(sets.path)} holds .* what was live stays live"):
        rollback(store, "home")
    assert read_pointer(store, "home").manifest == later.path
    bury(store, sets, "2026-02-03", gone["other"])
    assert rollback(store, "home").manifest == sets.path


def test_taking_a_rollback_back_brings_nothing_back_either_nor_an_overlay(store, sets, exposure, gone) -> None:
    later, empty = another(store, sets, "later", "2026-02-01"), dataclasses.replace(sets, run="bare", files=())
    store.write_bytes(empty.path, empty.to_json().encode())
    publish(store, "home", later, exposure)
    rollback(store, "home")
    fields = json.loads(store.read_bytes(pointer_path("home"))) | {"withdrawn": [empty.path]}
    store.write_bytes(pointer_path("home"), json.dumps(fields).encode())
    over = Overlays(empty.path, (later.path,))
    store.write_bytes(overlays_path("home"), json.dumps(dataclasses.asdict(over)).encode())
    bury(store, sets, "2026-02-03", gone["item"])
    with pytest.raises(PublishError, match=f"{re.escape(later.path)} holds"):
        undo_rollback(store, "home")
    store.delete(overlays_path("home"))
    assert undo_rollback(store, "home").manifest == empty.path


def test_files_are_looked_through_one_after_the_other(store, sets, exposure, monkeypatch) -> None:
    looked, hits_in = [], publish_module.hits_in
    monkeypatch.setattr(publish_module, "hits_in", lambda path, *more: (looked.append(path), hits_in(path, *more))[1])
    later = another(store, sets, "later", "2026-02-01")
    publish(store, "home", later, exposure)
    assert looked == [store.local(file.path) for file in later.files]
