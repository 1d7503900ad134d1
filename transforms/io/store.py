"""The root everything lives under: a local folder or `gs://bucket/prefix`, behind the same few functions.

Paths are relative to the root, with forward slashes. Every write is atomic: a reader sees the old file, the new one or
none, never a part. Files under `data/` never change once written, so that a local copy of one may be kept for good.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, over a quota, over the largest size a file may have."""


class StoreError(RuntimeError):
    """The root could not be read or written; the message says what to do."""


class Store(Protocol):
    """What the road asks of a root."""

    @property
    def root(self) -> str:
        """Where it is, as a person writes it."""

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content. Raises `FileNotFoundError`."""

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a file atomically."""

    def append_line(self, path: str, line: str) -> None:
        """Add one line to a text file and make it durable."""

    def put(self, local_file: str, path: str) -> None:
        """Move a finished local file in."""

    def local(self, path: str) -> str:
        """Return a local path to read the file from; a remote file is fetched once and kept."""

    def move(self, source: str, target: str) -> None:
        """Rename a file; nothing to do where the source is gone and the target is there."""

    def exists(self, path: str) -> bool:
        """Tell whether a file is there."""

    def list(self, prefix: str) -> list[str]:
        """Return the paths of all files in the folder `prefix` and below, sorted."""

    def digest(self, path: str) -> str:
        """Return a digest of a file's content."""

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all below; nothing to do where it is gone."""

    def lock(self, owner: str) -> contextlib.AbstractContextManager[None]:
        """Hold the root for one run. Raises `StoreError` naming the holder."""


def open_store(root: str) -> Store:
    """Open a root by its form: `gs://...`, or a folder, which is made where it is missing."""
    if root.startswith("gs://"):
        from transforms.io.gcs import GcsStore

        return GcsStore.open(root)
    return LocalStore(str(Path(root).expanduser().resolve()))


@dataclasses.dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder."""

    root: str

    def read_bytes(self, path: str) -> bytes:
        return Path(self.root, path).read_bytes()

    def write_bytes(self, path: str, content: bytes) -> None:
        with self._explained(path):
            target = Path(self.root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def append_line(self, path: str, line: str) -> None:
        with self._explained(path):
            target = Path(self.root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(line.rstrip("\n") + "\n")
                file.flush()
                os.fsync(file.fileno())

    def put(self, local_file: str, path: str) -> None:
        with self._explained(path):
            target = Path(self.root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = target.parent / f".{target.name}.{os.getpid()}.tmp"
            shutil.move(local_file, staged)
            os.replace(staged, target)

    def local(self, path: str) -> str:
        return str(Path(self.root, path))

    def move(self, source: str, target: str) -> None:
        with self._explained(target):
            Path(self.root, target).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(Path(self.root, source), Path(self.root, target))
            except FileNotFoundError:
                if not self.exists(target):
                    raise

    def exists(self, path: str) -> bool:
        return Path(self.root, path).is_file()

    def list(self, prefix: str) -> list[str]:
        found = []
        for folder, folders, files in os.walk(Path(self.root, prefix)):
            folders.sort()
            found += [os.path.relpath(os.path.join(folder, f), self.root) for f in files if not f.endswith(".tmp")]
        return sorted(path.replace(os.sep, "/") for path in found)

    def digest(self, path: str) -> str:
        return file_digest(self.local(path))

    def delete(self, path: str) -> None:
        target = Path(self.root, path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, owner: str) -> Iterator[None]:
        """Hold an advisory lock, which the kernel drops when the process dies, however it dies."""
        path = Path(self.root, "lock.json")
        with self._explained("lock.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StoreError(held_by(self.root, file.read())) from None
            file.truncate(0)
            file.write(json.dumps({"owner": owner, "pid": os.getpid()}))
            file.flush()
            yield
            file.truncate(0)

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise StoreError(disk_full(path, self.root)) from error
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
                raise StoreError(
                    f"{path} could not be written under {self.root} ({error.strerror}). Give ROOT= a folder you may"
                    " write to."
                ) from error
            raise


def disk_full(path: str, folder: str) -> str:
    """Say that there is no room."""
    return (
        f"the disk is full: {path} could not be written under {folder}. Nothing was published and what was live stays"
        " live. Free some space and run the same command again; it resumes where it stopped."
    )


class Altered(ValueError):
    """A file is not what was committed."""


def demand_digest(path: str, sha256: str | None) -> None:
    """Refuse a local file with another digest; None asks nothing.

    Raises:
      Altered: names both.
    """
    if sha256 is not None and (found := file_digest(path)) != sha256:
        raise Altered(f"{path} has sha256 {found}, committed was {sha256}")


def file_digest(path: str | Path) -> str:
    """Return the sha256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def held_by(root: str, holder: str) -> str:
    """Say who holds a root."""
    try:
        fields = json.loads(holder)
        who = f"{fields['owner']} (process {fields['pid']})"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return f"{root} is in use by {who}. Two runs never write one root at once: wait for it, or use another ROOT=."
