"""State per user on local disk: what a stream may not forget when it is killed."""

import collections
import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from schemas.inputs import TOMBSTONE
from transforms.io.store import LocalStore, StoreError, disk_full
from validation.rows import polars_schema

FORMAT, FILE = 2, "state.sqlite"
_CACHE_BYTES = 256 * 2**20
_ENTRY_BYTES = 300
_TABLES = """
CREATE TABLE user(
  id TEXT PRIMARY KEY, state BLOB NOT NULL, sequence INTEGER, owed INTEGER NOT NULL, touched_us INTEGER NOT NULL,
  written_us INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX owed ON user(id) WHERE owed;
CREATE INDEX touched ON user(touched_us);
CREATE TABLE tombstone(entity TEXT, id TEXT, reason TEXT, effective_ts INTEGER, PRIMARY KEY(entity, id)) WITHOUT ROWID;
"""
_FROM_1 = "ALTER TABLE user ADD COLUMN written_us INTEGER NOT NULL DEFAULT 0;"


def read_tombstones(folder: Path) -> pl.DataFrame:
    """Return what `StateStore.tombstones` does, beside the process that holds the store; nothing where there is none."""
    path = folder / FILE
    if not path.exists():
        return pl.DataFrame(schema=polars_schema(TOMBSTONE))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return _tombstones(db)


def read_states(folder: Path, since_us: int) -> Iterator[tuple[str, bytes]]:
    """Yield the states of users with an event since then, by user, all as of one moment, beside the process that holds the store.

    Args:
      since_us: us since 1970.

    Raises:
      StoreError: no stream has left its state there, or it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        raise StoreError(
            f"no stream has kept its state in {folder}: start one with `make stream`, or name its folder with STATE="
        )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            yield from db.execute("SELECT id, state FROM user WHERE touched_us >= ? ORDER BY id", (since_us,))
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path} could not be read ({error}): is it the state of a stream, and of this version?"
        ) from error


def _tombstones(db: sqlite3.Connection) -> pl.DataFrame:
    rows = db.execute("SELECT entity, id, reason, effective_ts FROM tombstone ORDER BY entity, id").fetchall()
    return pl.DataFrame(rows, schema=polars_schema(TOMBSTONE), orient="row")


@dataclasses.dataclass(frozen=True, slots=True)
class Commit:
    """What one batch changes, all at once.

    Attributes:
      states: new state by user.
      touched_us: event time of the last event by user of `states`, us since 1970.
      written_us: time of the batch, us since 1970; decides when a state is forgotten and nothing else.
      sequences: by user whose set was published before the batch, its sequence, None where none could be made: nothing is
        owed to them but by this batch.
      owed: users to whom a set is owed.
    """

    states: Mapping[str, bytes]
    touched_us: Mapping[str, int]
    sequences: Mapping[str, int | None]
    owed: frozenset[str]
    written_us: int


class StateStore:
    """One SQLite file, held by one process, with the states used last in memory.

    A commit is on disk when it returns: it outlives a killed process and a lost machine whose disk is kept.

    Memory: 256 MiB of states, whatever the number of users.
    """

    def __init__(self, folder: Path, cache_bytes: int = _CACHE_BYTES) -> None:
        """Open the folder, or begin one.

        Raises:
          StoreError: another process holds it, or it was written by code of another format.
        """
        self._held = contextlib.ExitStack()
        self._held.enter_context(LocalStore(str(folder)).lock("stream"))
        self.path = folder / FILE
        self._cache: collections.OrderedDict[str, bytes | None] = collections.OrderedDict()
        self._cache_bytes, self._cached = cache_bytes, 0
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._held.callback(self._db.close)
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def _begin(self) -> None:
        with self._explained():
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
            elif found == 1:
                self._db.executescript(f"BEGIN; {_FROM_1} PRAGMA user_version={FORMAT}; COMMIT;")
            elif found != FORMAT:
                raise StoreError(
                    f"{self.path} is of format {found}, this code writes format {FORMAT}: run the version that wrote it, or"
                    " move the file away; sessions then begin anew."
                )

    def states(self, users: Iterable[str]) -> dict[str, bytes | None]:
        """Return the state of every user, None for one without."""
        found, unknown = {}, []
        for user in users:
            if user in self._cache:
                self._cache.move_to_end(user)
                found[user] = self._cache[user]
            else:
                unknown.append(user)
        for start in range(0, len(unknown), 500):
            found |= self._read(unknown[start : start + 500])
        return found

    def _read(self, users: list[str]) -> dict[str, bytes | None]:
        marks = ",".join("?" * len(users))
        with self._explained():
            rows = dict(self._db.execute(f"SELECT id, state FROM user WHERE id IN ({marks})", users))
        read = {user: rows.get(user) for user in users}
        self._keep(read)
        return read

    def _keep(self, states: Mapping[str, bytes | None]) -> None:
        for user, state in states.items():
            self._drop(user)
            self._cache[user] = state
            self._cached += len(state or b"") + _ENTRY_BYTES
        while self._cached > self._cache_bytes:
            self._drop(next(iter(self._cache)))

    def _drop(self, user: str) -> None:
        if user in self._cache:
            self._cached -= len(self._cache.pop(user) or b"") + _ENTRY_BYTES

    def commit(self, batch: Commit) -> None:
        """Write a batch in one transaction. Raises `StoreError`; then nothing of it was written."""
        rows = [(u, new, u in batch.owed, batch.touched_us[u], batch.written_us) for u, new in batch.states.items()]
        with self._transaction():
            self._db.executemany(
                "UPDATE user SET sequence=coalesce(?, sequence), owed=0 WHERE id=?",
                [(s, u) for u, s in batch.sequences.items()],
            )
            self._db.executemany(
                "INSERT INTO user(id, state, owed, touched_us, written_us) VALUES(?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET"
                " state=excluded.state, owed=owed OR excluded.owed, touched_us=max(touched_us, excluded.touched_us),"
                " written_us=excluded.written_us",
                rows,
            )
            self._db.executemany("UPDATE user SET owed=1 WHERE id=?", [(u,) for u in batch.owed - batch.states.keys()])
        self._keep(batch.states)

    def owed(self) -> list[str]:
        """Return the users to whom a set is owed, sorted."""
        with self._explained():
            return [user for (user,) in self._db.execute("SELECT id FROM user WHERE owed ORDER BY id")]

    def sequences(self, users: Iterable[str]) -> dict[str, int]:
        """Return the sequence of the set published last, of those of the users who have one."""
        with self._explained():
            ask = "SELECT sequence FROM user WHERE id=?"
            found = ((user, self._db.execute(ask, (user,)).fetchone()) for user in users)
            return {user: row[0] for user, row in found if row and row[0] is not None}

    def expire(self, idle_us: int, now_us: int) -> int:
        """Forget users to whom nothing is owed, whose last event lies `idle_us` behind the newest of all and whose state was
        written as long before `now_us`; return how many.

        Either alone forgets too much: an old backlog is behind others while it still comes, and a job that was down for long
        goes on where it stopped.
        """
        with self._transaction():
            gone = self._db.execute(
                "DELETE FROM user WHERE touched_us < (SELECT max(touched_us) FROM user) - ? AND written_us < ? AND NOT owed"
                " RETURNING id",
                (idle_us, now_us - idle_us),
            )
            users = [user for (user,) in gone.fetchall()]
        for user in users:
            self._drop(user)
        return len(users)

    def bury(self, tombstones: pl.DataFrame) -> None:
        """Keep tombstones for good, and forget the users among them."""
        rows = tombstones.select("entity", "id", "reason", pl.col("effective_ts").dt.epoch("us")).rows()
        users = [(id_,) for entity, id_, *_ in rows if entity == "user"]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO tombstone VALUES(?,?,?,?)", rows)
            self._db.executemany("DELETE FROM user WHERE id=?", users)
        for (user,) in users:
            self._drop(user)

    def tombstones(self) -> pl.DataFrame:
        """Return everything that must disappear, in the contract of tombstones, sorted."""
        with self._explained():
            rows = self._db.execute(
                "SELECT entity, id, reason, effective_ts FROM tombstone ORDER BY entity, id"
            ).fetchall()
        return pl.DataFrame(rows, schema=polars_schema(TOMBSTONE), orient="row")

    def erased(self, users: Iterable[str]) -> set[str]:
        """Return those of the users who were erased."""
        ask = "SELECT 1 FROM tombstone WHERE entity='user' AND id=?"
        with self._explained():
            return {user for user in users if self._db.execute(ask, (user,)).fetchone()}

    def __len__(self) -> int:
        with self._explained():
            return self._db.execute("SELECT count(*) FROM user").fetchone()[0]

    def close(self) -> None:
        """Close the file and let others have it."""
        self._held.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise StoreError(disk_full(self.path.name, str(self.path.parent))) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise StoreError(
                    f"{self.path} is damaged ({error}). Move it away and start again: sessions begin anew, and events that were"
                    " not acknowledged are delivered again."
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"{self.path} could not be read or written ({error}); see to the disk, start again"
                ) from error
            raise
