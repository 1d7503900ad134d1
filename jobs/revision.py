"""A git ref as a side of a comparison: its own code, in a worktree of its own, runs the road on an input and judges it.

Worktrees lie under `<folder>/code` and are removed however a command ends; one left by a killed machine is removed by the next.
Roots stay under `<folder>/<commit>`, so that a comparison that was cut short goes on, and a base is not computed again.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDED = ("jobs/batch.py", "jobs/evaluate.py")


class RevisionError(ValueError):
    """A git ref cannot be judged; the message says why and the next step."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """What refs are judged on.

    Attributes:
      folder: where worktrees and roots lie.
      raw: raw folder with events of the days after the date, too. date: ISO. shards: per dataset.
    """

    folder: Path
    raw: str
    date: str
    shards: int


def commit_of(ref: str) -> str:
    """Return the commit a ref names.

    Raises:
      RevisionError: there is none.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode:
        raise RevisionError(
            f"{ref} is neither a folder nor a git ref of {REPOSITORY}: give the root of a run that was judged, a branch, a tag"
            " or a commit" + (f" ({found.stderr.strip()})" if found.stderr.strip() else "")
        )
    return found.stdout.strip()


def uncommitted() -> list[str]:
    """Return the files with changes that no ref holds."""
    return [line[3:] for line in _git("status", "--porcelain").stdout.splitlines()]


def judged_root(ref: str, commit: str, trial: Trial) -> str:
    """Run the road of a commit's code for the date and judge it, as far as that is not done yet; return the run's address.

    Args:
      ref: what the commit was called when it was asked for; it may name another one by now.

    Raises:
      RevisionError: its code cannot judge, or a command of it failed.
    """
    missing = [path for path in NEEDED if _git("cat-file", "-e", f"{commit}:{path}").returncode]
    if missing:
        raise RevisionError(
            f"{ref} ({commit[:10]}) has no {missing[0]}: it is older than this comparison; take a later ref, or judge it by"
            " hand and give its root"
        )
    root = str(trial.folder / commit[:16])
    with checked_out(commit, trial.folder / "code" / commit[:16]) as code:
        for command in _commands(trial, root):
            print(f"  {ref} ({commit[:10]})  {' '.join(command)}", file=sys.stderr, flush=True)
            done = subprocess.run([sys.executable, "-m", *command], cwd=code, env=_environment(code), check=False)
            if done.returncode:
                raise RevisionError(
                    f"{command[0]} of {ref} ({commit[:10]}) ended with {done.returncode}, its own words are above: mend it, or"
                    " take another ref; what was done stays done"
                )
    return f"{root}/runs/date={trial.date}"


def _commands(trial: Trial, root: str) -> list[list[str]]:
    place = ["--raw", trial.raw, "--root", root]
    return [
        ["jobs.batch", "--date", trial.date, *place, "--shards", str(trial.shards)],
        ["jobs.evaluate", "run", "--from", trial.date, "--to", trial.date, *place],
    ]


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a folder that is gone again afterwards, whatever happens in between, SIGTERM too.

    Raises:
      RevisionError: git cannot.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        _remove(folder)
        made = _git("worktree", "add", "--detach", "--force", str(folder), commit)
        if made.returncode:
            raise RevisionError(f"git cannot check {commit[:10]} out into {folder}: {made.stderr.strip()}")
        yield folder
    finally:
        _remove(folder)
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _remove(folder: Path) -> None:
    """Remove a worktree, half made or whole; nothing where there is none."""
    _git("worktree", "remove", "--force", "--force", str(folder))
    if folder.exists():
        shutil.rmtree(folder)
    _git("worktree", "prune")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, env=_environment(None), capture_output=True, text=True, check=False
    )


def _environment(code: Path | None) -> dict[str, str]:
    """Return the environment without what a git hook sets; with `code`, that of a command which imports from there."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return plain | {"PYTHONPATH": str(code)} if code else plain
