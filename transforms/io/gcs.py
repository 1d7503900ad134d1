"""A root in Google Cloud Storage. The one module that imports its client."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import TransportError
from google.cloud import storage

from transforms.io.store import StoreError, held_by
from transforms.io.temporary import cache_folder

LEASE_S = 300
_RENEW_S = 60
_NO_ANSWER = (exceptions.ServerError, exceptions.TooManyRequests, exceptions.RetryError, TransportError)
_lost: set[str] = set()
"""Roots whose lease this process held and another run took over: nothing more is written to them."""


@functools.lru_cache(maxsize=8)
def _bucket(name: str) -> storage.Bucket:
    """Return a bucket handle; `STORAGE_EMULATOR_HOST` leads to an emulator, which asks for no credentials."""
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client(project="local", credentials=AnonymousCredentials()).bucket(name)
    return storage.Client().bucket(name)


@dataclasses.dataclass(frozen=True, slots=True)
class GcsStore:
    """`gs://bucket/prefix`. An object write is atomic; a rename is a copy and a delete.

    Fetched files are kept under `cache` on local disk for a day: as large as what the process reads, which for one stage
    is its input shards.
    """

    root: str
    bucket_name: str
    prefix: str
    cache: str

    @classmethod
    def open(cls, root: str) -> "GcsStore":
        """Split `gs://bucket/prefix`.

        Raises:
          StoreError: no bucket in it.
        """
        bucket, _, prefix = root.removeprefix("gs://").strip("/").partition("/")
        if not bucket:
            raise StoreError(f"{root!r} names no bucket; expected gs://bucket/prefix")
        cache = os.path.join(cache_folder(), bucket, prefix)
        return cls(f"gs://{bucket}/{prefix}".rstrip("/"), bucket, prefix + "/" if prefix else "", cache)

    def _blob(self, path: str) -> storage.Blob:
        return _bucket(self.bucket_name).blob(self.prefix + path)

    def read_bytes(self, path: str) -> bytes:
        try:
            with self._answered(path):
                return self._blob(path).download_as_bytes()
        except exceptions.NotFound as error:
            raise FileNotFoundError(f"{self.root}/{path}") from error

    def write_bytes(self, path: str, content: bytes) -> None:
        if self.root in _lost:
            raise StoreError(
                f"{self.root}: this run was out of reach for {LEASE_S} s and another one took the root over; nothing more"
                " is written. Run it again when the other one has ended: what is done is kept."
            )
        self._blob(path).upload_from_string(content, content_type="application/octet-stream")

    def append_line(self, path: str, line: str) -> None:
        """Objects cannot grow: write the whole small file again; the holder of the root is its only writer."""
        before = self.read_bytes(path) if self.exists(path) else b""
        self.write_bytes(path, before + line.rstrip("\n").encode() + b"\n")

    def put(self, local_file: str, path: str) -> None:
        self._blob(path).upload_from_filename(local_file)
        os.unlink(local_file)

    def local(self, path: str) -> str:
        """Fetch one generation of an object: another one, say a corrected delivery, is another local file."""
        with self._answered(path):
            blob = _bucket(self.bucket_name).get_blob(self.prefix + path)
        if blob is None:
            raise FileNotFoundError(f"{self.root}/{path}")
        target = Path(self.cache, str(blob.generation), path)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = f"{target}.{os.getpid()}.{threading.get_ident()}.tmp"
            with self._answered(path):
                blob.download_to_filename(part)
            os.replace(part, target)
        return str(target)

    def move(self, source: str, target: str) -> None:
        bucket = _bucket(self.bucket_name)
        blob = self._blob(source)
        if not blob.exists():
            if self.exists(target):
                return
            raise FileNotFoundError(f"{self.root}/{source}")
        bucket.copy_blob(blob, bucket, self.prefix + target)
        blob.delete()

    def exists(self, path: str) -> bool:
        with self._answered(path):
            return self._blob(path).exists()

    def list(self, prefix: str) -> list[str]:
        blobs = _bucket(self.bucket_name).list_blobs(prefix=f"{self.prefix}{prefix.rstrip('/')}/")
        return sorted(blob.name.removeprefix(self.prefix) for blob in blobs)

    def digest(self, path: str) -> str:
        """Return the checksum the service keeps: MD5, or CRC32C for a composed object."""
        blob = self._blob(path)
        blob.reload()
        return blob.md5_hash or f"crc32c:{blob.crc32c}"

    def delete(self, path: str) -> None:
        for name in [*self.list(path), path]:
            with contextlib.suppress(exceptions.NotFound):
                self._blob(name).delete()

    @contextlib.contextmanager
    def _answered(self, path: str) -> Iterator[None]:
        """Raise `StoreError` where the service does not answer, after its client has tried for minutes."""
        try:
            yield
        except _NO_ANSWER as error:
            raise StoreError(f"{self.root}/{path} could not be read, the service did not answer: {error}") from error

    @contextlib.contextmanager
    def lock(self, owner: str) -> Iterator[None]:
        """Hold a lease object; a holder that died loses it after `LEASE_S` seconds."""
        blob = self._blob("lock.json")
        self._take(blob, owner)
        _lost.discard(self.root)
        stop = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(blob, owner, stop), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            stop.set()
            renewal.join()
            with contextlib.suppress(exceptions.NotFound, exceptions.PreconditionFailed):  # another took the lease over
                blob.delete(if_generation_match=blob.generation)

    def _take(self, blob: storage.Blob, owner: str) -> None:
        generation = 0
        try:
            holder = blob.download_as_bytes().decode()
            if json.loads(holder)["expires"] > time.time():
                raise StoreError(held_by(self.root, holder))
            generation = blob.generation
        except exceptions.NotFound:
            generation = 0
        try:
            blob.upload_from_string(_lease(owner), if_generation_match=generation)
        except exceptions.PreconditionFailed as error:
            raise StoreError(held_by(self.root, "")) from error

    def _renew(self, blob: storage.Blob, owner: str, stop: threading.Event) -> None:
        """Renew the lease until told to stop; an outage shorter than the lease is outlived."""
        while not stop.wait(_RENEW_S):
            try:
                blob.upload_from_string(_lease(owner), if_generation_match=blob.generation)
            except exceptions.PreconditionFailed:
                _lost.add(self.root)
                return
            except (exceptions.GoogleAPIError, OSError) as error:
                logging.getLogger(__name__).warning("the lease of %s could not be renewed: %s", self.root, error)


def _lease(owner: str) -> str:
    holder = f"{owner} on {socket.gethostname()}"
    return json.dumps({"owner": holder, "pid": os.getpid(), "expires": time.time() + LEASE_S})
