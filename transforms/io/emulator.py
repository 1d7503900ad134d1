"""The official Pub/Sub emulator: found, started on a free port of this machine, and stopped by its own process id."""

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import grpc
import psutil

from transforms.io.broker import BrokerError

_START_S = 30.0
_FOLDERS = ("/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "~/google-cloud-sdk", "/opt/google-cloud-sdk")
_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
_OR = "Or use a real one: PROJECT=<your project>."


def find_emulator() -> tuple[str, str]:
    """Return java and the emulator's jar.

    Raises:
      BrokerError: one of them is missing; says how to get it.
    """
    java = shutil.which("java")
    jars = sorted(jar for folder in _sdk_folders() for jar in folder.glob(_JAR))
    if not jars:
        raise BrokerError(
            "the Pub/Sub emulator is not installed. Get it with `gcloud components install pubsub-emulator`, or on Debian and"
            f" Ubuntu with `apt-get install google-cloud-cli-pubsub-emulator`. {_OR}"
        )
    if java is None:
        raise BrokerError(
            f"the Pub/Sub emulator needs java (11 or newer), which is not on the PATH: install one. {_OR}"
        )
    return java, str(jars[-1])


def _sdk_folders() -> list[Path]:
    gcloud = shutil.which("gcloud")
    beside = [Path(gcloud).resolve().parents[1]] if gcloud else []
    return list(dict.fromkeys([*beside, *(Path(folder).expanduser() for folder in _FOLDERS)]))


@dataclasses.dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator: its `host:port`, which answers, and its process id."""

    address: str
    pid: int

    def stop(self) -> None:
        """End it; nothing to do where it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            process.terminate()
            try:
                process.wait(10)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(10)


def adopt_emulator(address: str, pid: int) -> Emulator | None:
    """Return the emulator that an earlier process left running, with its messages; None where it is no more.

    One on a busy machine is waited for: another would begin without what nobody has taken yet.
    """
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    ours = any("pubsub-emulator" in word for word in command) and f"--port={_port(address)}" in command
    return Emulator(address, pid) if ours and _answers(address, _START_S) else None


def start_emulator(address: str | None = None) -> Emulator:
    """Start the emulator and wait until it answers.

    Args:
      address: `127.0.0.1:port`; None: a free port.

    Raises:
      BrokerError: it is missing, or did not come up.
    """
    java, jar = find_emulator()
    address = address or _free_address()
    with tempfile.TemporaryFile() as log:
        # In a session of its own: an interrupt from the keyboard is for the job, which still has messages to acknowledge.
        process = subprocess.Popen(
            [java, "-jar", jar, "--host=127.0.0.1", f"--port={_port(address)}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            if _answers(address, 0.3):
                return Emulator(address, process.pid)
        Emulator(address, process.pid).stop()
        log.seek(0)
        said = log.read()[-2_000:].decode("utf-8", "replace")
    raise BrokerError(f"the Pub/Sub emulator did not answer on {address} within {_START_S:.0f} s; it said:\n{said}")


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _answers(address: str, within_s: float) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/google.pubsub.v1.Publisher/ListTopics")(b"", timeout=within_s, wait_for_ready=True)
        except grpc.RpcError as error:  # any answer will do, if only that the question names no project
            return error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    return True
