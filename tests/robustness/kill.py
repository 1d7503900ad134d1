"""Kill the road with SIGKILL at seeded moments: `python tests/robustness/kill.py --kills 20 [--demo] [--seed 7]`.

Every kill is of a run on a fresh copy of a root on which the day before is live, and is followed by a plain re-run. A
reader looks at the root all along. Ends with status 0 only if every re-run led to the bytes of an undisturbed run.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from road_folders import (
    SMALL,
    TODAY,
    YESTERDAY,
    arguments,
    contents,
    deliver_daily,
    half_committed,
    published,
    reader_finds,
    start_batch,
    write_policy,
    write_raw,
)  # fmt: skip

from jobs.options import POLICY_FILE
from transforms.world_setting import PRESETS, Setting

_LOOK_EVERY_S = 0.05
Moment = Callable[[Path, float], bool]


def watch(process: subprocess.Popen, root: Path, moment: Moment | None = None) -> tuple[bool, int]:
    """Read the root until the process ends, or kill it at its moment; return whether it was killed, and looks.

    Raises:
      AssertionError: what was live was not whole, at any look.
    """
    began, looks = time.monotonic(), 0
    while process.poll() is None:
        wrong = reader_finds(root)
        if wrong:
            process.kill()
            raise AssertionError(f"a reader found after {time.monotonic() - began:.1f} s: {'; '.join(wrong)}")
        looks += 1
        if moment is not None and moment(root, time.monotonic() - began):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True, looks
        time.sleep(_LOOK_EVERY_S)
    return False, looks


def after(seconds: float) -> Moment:
    """Return the moment some seconds after the start."""
    return lambda root, spent: spent >= seconds


def once_there(pattern: str) -> Moment:
    """Return the moment at which a file of the root first matches."""
    return lambda root, spent: any(root.glob(pattern))


def finish(options: list[str], root: Path, log: Path) -> int:
    """Run the road to its end under a reader's eyes; return the number of looks.

    Raises:
      AssertionError: it did not end well.
    """
    process = start_batch(options, log)
    _, looks = watch(process, root)
    assert process.returncode == 0, f"status {process.returncode}: {log.read_text()[-2000:]}"
    return looks


def kill_and_rerun(base: Path, root: Path, options: list[str], moment: Moment, log: Path) -> tuple[bool, int]:
    """Copy a root, kill a run on it at a moment, run again; return whether the kill came in time, and looks."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root)
    killed, looks = watch(start_batch(options, log), root, moment)
    assert not half_committed(root), half_committed(root)
    return killed, looks + finish(options, root, log)


def main() -> int:
    """Do the kills and print one line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--demo", action="store_true", help="the world and the policy of the demo, instead of small ones"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segue-kill-") as folder:
        figures = soak(Path(folder), options.kills, options.seed, options.demo)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(figure["met"] for figure in figures) else 1


def soak(folder: Path, kills: int, seed: int, demo: bool) -> list[dict]:
    """Return the figures of a number of kills at moments spread at random over the run."""
    setting = Setting(**PRESETS["laptop"], end=TODAY) if demo else SMALL
    raw, log = deliver_daily(write_raw(folder / "raw", setting)), folder / "log"
    policy = POLICY_FILE if demo else write_policy(folder / "policy.toml")
    base, whole, root = folder / "base", folder / "whole", folder / "root"
    finish(arguments(raw, base, policy, YESTERDAY), base, log)
    shutil.copytree(base, whole)
    began = time.monotonic()
    finish(arguments(raw, whole, policy), whole, log)
    seconds, draws, same, late, looks = time.monotonic() - began, random.Random(seed), 0, 0, 0
    print(f"an undisturbed run takes {seconds:.1f} s and publishes {len(published(whole))} files", flush=True)
    for number in range(kills):
        at = draws.uniform(0.0, seconds)
        killed, seen = kill_and_rerun(base, root, arguments(raw, root, policy), after(at), log)
        equal = contents(root) == contents(whole)
        same, late, looks = same + equal, late + (not killed), looks + seen
        what = f"killed after {at:5.1f} s" if killed else "ended before its moment"
        print(f"{number + 1:3} {what}: {'same bytes' if equal else 'OTHER BYTES'}, {seen} looks", flush=True)
    return [
        {"name": "re-runs with the bytes of an undisturbed run", "value": same, "unit": "runs", "target": kills,
         "met": same == kills},
        {"name": "runs that ended before their moment", "value": late, "unit": "runs", "target": kills // 4,
         "met": late <= kills // 4},
        {"name": "looks at the root, every one of them whole", "value": looks, "unit": "looks", "target": None,
         "met": True},
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
