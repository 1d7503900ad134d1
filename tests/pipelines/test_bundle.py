import dataclasses
import json

import pytest

from jobs import release
from pipelines.bundle import (
    BundleError,
    bundle_path,
    demand_servable,
    label,
    label_of,
    list_bundles,
    read_bundle,
)
from pipelines.publish import pointer_path, publish, read_pointer
from pipelines.runner import load_manifest
from schemas.manifest import CheckResult
from transforms.io.store import Store


@pytest.fixture
def live(store: Store) -> str:
    pointer = read_pointer(store, "home")
    assert pointer is not None
    assert pointer.bundle is not None
    return pointer.bundle


def test_both_surfaces_and_their_records_name_one_bundle(store: Store, live: str) -> None:
    playing = read_pointer(store, "now_playing")
    assert playing is not None
    assert playing.bundle == live
    found = demand_servable(store, live)
    assert {"encoder", "item_embedding", "session_knn", "co_listen", "transition", "item"} <= set(found.parts)
    assert found.bytes > 0
    assert found.metrics["recall@100"] > 0


def test_a_bundle_holds_nothing_of_the_users(store: Store, live: str) -> None:
    assert not {"user", "history", "user_embedding", "tombstone"} & set(read_bundle(store, live).parts)


def changed(store: Store, live: str, part: str, **fields) -> None:
    path = read_bundle(store, live).parts[part].manifest
    manifest = load_manifest(store, path)
    store.write_bytes(path, dataclasses.replace(manifest, **fields).to_json().encode())


def test_a_bundle_whose_checks_failed_cannot_go_live(store: Store, live: str) -> None:
    failed = CheckResult("unit_vectors", "statistics", "critical", "failed", 1, "0")
    changed(store, live, "item_embedding", checks=(failed,))
    before = store.read_bytes(pointer_path("home"))
    pointer = json.loads(before)
    store.delete(pointer_path("home"))
    record = json.loads(store.read_bytes("runs/date=2026-01-31/record.json"))
    pair = (load_manifest(store, pointer["manifest"]), load_manifest(store, record["manifests"]["exposure/home"]))
    with pytest.raises(BundleError, match=r"item_embedding is .* with checks failed"):
        publish(store, "home", *pair)
    assert not store.exists(pointer_path("home"))


def test_a_bundle_with_another_part_than_it_says_is_refused(store: Store, live: str) -> None:
    changed(store, live, "co_listen", fingerprint="other")
    with pytest.raises(BundleError, match=r"co_listen is .* the bundle was made with"):
        demand_servable(store, live)


def test_a_bundle_with_a_part_gone_is_refused(store: Store, live: str) -> None:
    store.delete(read_bundle(store, live).parts["encoder"].manifest)
    with pytest.raises(BundleError, match=r"\(encoder\) is gone; run its date again"):
        demand_servable(store, live)


def test_labels_are_what_people_say_and_live_is_what_pointers_say(store: Store, live: str) -> None:
    assert label_of(store, live, set()) == "candidate"
    label(store, live, "canary")
    assert label_of(store, live, set()) == "canary"
    assert label_of(store, live, {live}) == "live"
    with pytest.raises(ValueError, match="live is what a surface's pointer names, came 'live'"):
        label(store, live, "live")
    with pytest.raises(BundleError, match="no bundle nothing"):
        label(store, "nothing", "canary")


def test_a_description_that_cannot_be_read_is_said_to_be_so(store: Store, live: str) -> None:
    store.write_bytes(bundle_path(live), b"{")
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(store, live)


def test_the_list_shows_label_date_size_and_metrics(store: Store, live: str, capsys) -> None:
    assert [one.bundle for one in list_bundles(store)] == [live]
    assert release.main(["bundles", "--root", store.root]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if live in line]
    assert line.split()[:3] == [live, "live", "2026-01-31"]
    assert "passed" in line
    assert "recall@100" in line


def test_a_root_without_bundles_says_so(tmp_path, capsys) -> None:
    assert release.main(["bundles", "--root", str(tmp_path)]) == 0
    assert "no bundle is written" in capsys.readouterr().out
