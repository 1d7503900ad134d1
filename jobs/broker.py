"""How the streaming commands find one broker: named by `PROJECT=`, by the environment, or by the stream at work."""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from transforms.io.emulator import Emulator, adopt_emulator, start_emulator
from transforms.io.pubsub import EMULATOR, LOCAL_PROJECT, PubSub
from transforms.io.store import LocalStore, open_store

LINK = "broker.json"


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where messages are."""
    root = "folder or gs:// address of what is live"
    parser.add_argument("--root", default=os.environ.get("ROOT", ".segue"), help=root)
    parser.add_argument("--project", help="Google Cloud project; the emulator where it is left out")


def state_folder(root: str, given: str | None = None) -> Path:
    """Return the local folder of a stream's state.

    Raises:
      ValueError: the root is remote and no folder is given.
    """
    if given is not None:
        return Path(given)
    if root.startswith("gs://"):
        raise ValueError(f"state lies on local disk, and ROOT={root} does not: name a folder with STATE=")
    return Path(LocalStore(open_store(root).root).root, "stream")


@contextlib.contextmanager
def own_broker(folder: Path, project: str | None) -> Iterator[PubSub]:
    """Connect as the stream does, which starts an emulator where nothing else is named, and create what is missing.

    Raises:
      BrokerError: no emulator is installed, or the broker refuses.
    """
    store = LocalStore(str(folder))
    with contextlib.ExitStack() as held:
        held.callback(store.delete, LINK)
        running = None
        if project is None and not os.environ.get(EMULATOR):
            running = _left_running(store) or start_emulator()
            held.callback(running.stop)
            os.environ[EMULATOR] = running.address
            held.callback(os.environ.pop, EMULATOR)
        broker = PubSub(project or LOCAL_PROJECT)
        held.callback(broker.close)
        link = {"host": os.environ.get(EMULATOR), "project": broker.project, "pid": running.pid if running else None}
        store.write_bytes(LINK, json.dumps(link).encode())
        broker.create()
        yield broker


def _left_running(store: LocalStore) -> Emulator | None:
    """Return the emulator of a stream that was killed: what was not acknowledged waits in it."""
    if not store.exists(LINK):
        return None
    link = json.loads(store.read_bytes(LINK))
    return adopt_emulator(link["host"], link["pid"]) if link["pid"] else None


@contextlib.contextmanager
def same_broker(root: str, project: str | None) -> Iterator[PubSub]:
    """Connect to the broker of the stream at work under a root.

    Raises:
      ValueError: there is none, and none is named.
    """
    if project is None and not os.environ.get(EMULATOR):
        try:
            link = json.loads((state_folder(root) / LINK).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"no stream is at work under {root}: start one with `make stream` in another terminal, or name PROJECT="
            ) from None
        project = link["project"]
        if link["host"]:
            os.environ[EMULATOR] = link["host"]
    broker = PubSub(project or LOCAL_PROJECT)
    try:
        if os.environ.get(EMULATOR):  # it may have been started, or restarted, a moment ago
            broker.create()
        yield broker
    finally:
        broker.close()
