"""An object store of one process: the emulator, and the address of a bucket in it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from gcp_storage_emulator.server import create_server
from gcp_storage_emulator.storage import Storage

from transforms.io import gcs

BUCKET = "segue-test"


@contextlib.contextmanager
def emulated_bucket() -> Iterator[str]:
    """Serve a bucket on a free port for as long as the context is open.

    It lives in memory: the emulator would lay down what it knows of all objects, for a later start, at every write of one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patched.setattr(Storage, "_write_config_to_file", lambda self: None)
        gcs._bucket.cache_clear()
        with create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
            yield f"gs://{BUCKET}"
    gcs._bucket.cache_clear()
