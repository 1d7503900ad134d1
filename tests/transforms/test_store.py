"""What a root promises, asked of a folder and of a bucket alike."""

import json
import threading
import time

import pytest
from bucket import emulated_bucket
from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed, ServiceUnavailable

from transforms.io import gcs
from transforms.io.gcs import GcsStore
from transforms.io.store import LocalStore, StoreError, file_digest, open_store


@pytest.fixture(scope="module")
def bucket():
    with emulated_bucket() as address:
        yield address


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.service)])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return open_store(str(tmp_path / "root"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return open_store(f"{request.getfixturevalue('bucket')}/{request.node.name}")


class TestStore:
    def test_the_form_of_the_root_decides(self, store):
        assert isinstance(store, GcsStore if store.root.startswith("gs://") else LocalStore)

    def test_what_was_written_is_read(self, store):
        store.write_bytes("a/b.json", b"one")
        store.write_bytes("a/b.json", b"two")
        assert store.read_bytes("a/b.json") == b"two"
        assert store.list("a") == ["a/b.json"]

    def test_what_is_not_there_cannot_be_read(self, store):
        with pytest.raises(FileNotFoundError, match=r"a/b\.json"):
            store.read_bytes("a/b.json")

    def test_lines_are_appended(self, store):
        store.append_line("lineage/x.jsonl", '{"n": 1}')
        store.append_line("lineage/x.jsonl", '{"n": "é"}\n')
        assert store.read_bytes("lineage/x.jsonl").decode() == '{"n": 1}\n{"n": "é"}\n'

    def test_a_local_file_is_moved_in(self, store, tmp_path):
        file = tmp_path / "made.parquet"
        file.write_bytes(b"rows")
        store.put(str(file), "data/x/part-0.parquet")
        assert store.read_bytes("data/x/part-0.parquet") == b"rows"
        assert not file.exists()

    def test_a_file_has_a_local_path(self, store):
        store.write_bytes("data/x/part-0.parquet", b"rows")
        local = store.local("data/x/part-0.parquet")
        assert local.endswith("part-0.parquet")
        with open(local, "rb") as file:
            assert file.read() == b"rows"
        assert store.local("data/x/part-0.parquet") == local

    def test_the_local_path_leads_to_what_was_written_last(self, store):
        store.write_bytes("events/a.parquet", b"cut off")
        store.local("events/a.parquet")
        store.write_bytes("events/a.parquet", b"delivered again")
        with open(store.local("events/a.parquet"), "rb") as file:
            assert file.read() == b"delivered again"

    def test_a_file_is_renamed_and_its_target_replaced(self, store):
        store.write_bytes("staging/p", b"new")
        store.write_bytes("data/p", b"old")
        store.move("staging/p", "data/p")
        assert store.read_bytes("data/p") == b"new"
        assert not store.exists("staging/p")

    def test_a_rename_that_was_done_before_is_nothing_to_do(self, store):
        store.write_bytes("data/p", b"new")
        store.move("staging/p", "data/p")
        assert store.read_bytes("data/p") == b"new"

    def test_a_rename_of_nothing_is_refused(self, store):
        with pytest.raises(FileNotFoundError, match="staging/p"):
            store.move("staging/p", "data/p")

    def test_a_folder_is_not_a_file(self, store):
        store.write_bytes("a/b/c", b"")
        assert store.exists("a/b/c")
        assert not store.exists("a/b")
        assert not store.exists("a/b/c/d")

    def test_a_folder_is_listed_with_all_below_sorted(self, store):
        for path in ("a/z", "a/b/c", "a/b/a", "ab/x"):
            store.write_bytes(path, b"")
        assert store.list("a") == ["a/b/a", "a/b/c", "a/z"]
        assert store.list("nothing") == []

    def test_a_digest_tells_contents_apart(self, store):
        for path, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
            store.write_bytes(path, content)
        assert store.digest("a") == store.digest("b") != store.digest("c")

    def test_a_folder_is_deleted_with_all_below(self, store):
        for path in ("a/z", "a/b/c", "ab/x", "f"):
            store.write_bytes(path, b"")
        store.delete("a")
        store.delete("f")
        store.delete("gone")
        assert [path for path in ("a/z", "a/b/c", "ab/x", "f") if store.exists(path)] == ["ab/x"]

    def test_a_root_that_is_held_names_its_holder(self, store):
        second = store.lock("backfill")
        with store.lock("batch 2026-01-31"), pytest.raises(StoreError) as caught:
            second.__enter__()
        assert str(caught.value).startswith(f"{store.root} is in use by batch 2026-01-31")
        assert "wait for it, or use another ROOT=" in str(caught.value)

    def test_a_root_is_free_after_its_holder_ended(self, store):
        for owner in ("one", "two"):
            with store.lock(owner):
                pass
        with pytest.raises(KeyError), store.lock("three"):
            raise KeyError
        with store.lock("four"):
            pass


class TestFolder:
    def test_a_write_that_fails_leaves_the_old_file_and_no_other(self, tmp_path, monkeypatch):
        store = LocalStore(str(tmp_path))
        store.write_bytes("a/b", b"old")
        monkeypatch.setattr("os.fsync", _failing(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output error"):
            store.write_bytes("a/b", b"new")
        assert store.read_bytes("a/b") == b"old"
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]

    @pytest.mark.parametrize("number", [28, 122, 27])
    def test_a_full_disk_is_said_in_words(self, tmp_path, monkeypatch, number):
        monkeypatch.setattr("os.replace", _failing(OSError(number, "no room")))
        with pytest.raises(StoreError, match="the disk is full: a/b could not be written") as caught:
            LocalStore(str(tmp_path)).write_bytes("a/b", b"")
        assert "Free some space and run the same command again" in str(caught.value)

    def test_a_folder_one_may_not_write_to_is_said_in_words(self, tmp_path):
        tmp_path.joinpath("root").write_text("a file in the way")
        with pytest.raises(StoreError, match="Give ROOT= a folder you may write to"):
            LocalStore(str(tmp_path / "root")).write_bytes("a/b", b"")

    def test_the_digest_is_the_sha256_of_the_content(self, tmp_path):
        tmp_path.joinpath("a").write_bytes(b"abc")
        assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")

    def test_half_written_files_of_a_killed_run_are_not_listed(self, tmp_path):
        tmp_path.joinpath(".part-0.parquet.77.tmp").write_bytes(b"")
        assert LocalStore(str(tmp_path)).list(".") == []


@pytest.mark.service
class TestBucket:
    def test_a_lease_that_ran_out_is_taken_over(self, bucket):
        store = open_store(f"{bucket}/left")
        store.write_bytes(
            "lock.json", json.dumps({"owner": "a dead run", "pid": 1, "expires": time.time() - 1}).encode()
        )
        with store.lock("batch"):
            assert "batch on" in store.read_bytes("lock.json").decode()
        assert not store.exists("lock.json")

    def test_of_two_that_reach_for_a_lease_at_once_one_gets_it(self, bucket, monkeypatch):
        def refuse(*arguments, **options):
            assert "if_generation_match" in options
            raise PreconditionFailed("the other was first")

        store = open_store(f"{bucket}/race")
        monkeypatch.setattr(gcs.storage.Blob, "upload_from_string", refuse)
        with pytest.raises(StoreError, match="is in use by another run"), store.lock("batch"):
            pass

    def test_a_service_that_does_not_answer_is_told_from_what_is_not_there(self, bucket, monkeypatch):
        def unavailable(*arguments, **options):
            raise ServiceUnavailable("come back later")

        store = open_store(f"{bucket}/blip")
        for call in ("download_as_bytes", "exists"):
            monkeypatch.setattr(gcs.storage.Blob, call, unavailable)
        monkeypatch.setattr(gcs.storage.Bucket, "get_blob", unavailable)
        for read in (store.read_bytes, store.exists, store.local):
            with pytest.raises(StoreError, match=r"live/x.json could not be read, the service did not answer: .*later"):
                read("live/x.json")

    def test_a_lease_that_another_took_over_is_left_to_it(self, bucket, monkeypatch):
        deleted = []

        def refuse(blob, if_generation_match):
            deleted.append((blob.name, if_generation_match == blob.generation))
            raise PreconditionFailed("it is another's by now")

        store = open_store(f"{bucket}/slow")
        with store.lock("batch"):
            monkeypatch.setattr(gcs.storage.Blob, "delete", refuse)
        assert deleted == [("slow/lock.json", True)]
        assert store.exists("lock.json")

    def test_a_lease_outlives_an_outage_and_a_run_that_lost_it_writes_nothing_more(self, bucket, monkeypatch, caplog):
        renewed = threading.Event()
        answers = [OSError("no route"), GoogleAPICallError("later"), PreconditionFailed("another's")]
        store = open_store(f"{bucket}/outage")
        monkeypatch.setattr(gcs, "_RENEW_S", 0.01)
        upload = gcs.storage.Blob.upload_from_string

        def answer(blob, content, **options):
            if threading.current_thread() is threading.main_thread():
                return upload(blob, content, **options)
            if len(answers) == 1:
                renewed.set()
            raise answers.pop(0)

        monkeypatch.setattr(gcs.storage.Blob, "upload_from_string", answer)
        with store.lock("batch"):
            assert renewed.wait(10)
            while f"{bucket}/outage" not in gcs._lost:
                time.sleep(0.01)
            with pytest.raises(StoreError, match="another one took the root over; nothing more is written"):
                store.write_bytes("live/home.json", b"")
        assert "could not be renewed: no route" in caplog.text
        with store.lock("batch again"):
            store.write_bytes("live/home.json", b"")

    def test_a_root_without_a_bucket_is_refused(self):
        with pytest.raises(StoreError, match="names no bucket; expected gs://bucket/prefix"):
            open_store("gs://")


def _failing(error: OSError):
    def call(*arguments):
        raise error

    return call
