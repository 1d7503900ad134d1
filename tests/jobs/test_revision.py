"""Git refs as sides of a comparison, on a small repository whose commands only say what they were asked."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import evaluate, revision
from jobs.revision import RevisionError, Trial, checked_out, commit_of, judged_root, uncommitted
from transforms.world_setting import PRESETS

SAYS = """
import pathlib, sys
root = pathlib.Path(sys.argv[sys.argv.index("--root") + 1])
root.mkdir(parents=True, exist_ok=True)
with (root / "said.txt").open("a") as file:
    print("{name}", *sys.argv[1:], pathlib.Path.cwd().name, pathlib.Path(sys.path[0]).name, file=file)
sys.exit({code})
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, tag: str, **commands: int) -> None:
    """Commit jobs by name that end with a status, under a tag."""
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    (folder / "jobs" / "__init__.py").touch()
    for name, code in commands.items():
        (folder / "jobs" / f"{name}.py").write_text(SAYS.format(name=name, code=code))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", tag)
    git(folder, "tag", tag)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "old", batch=0)
    commit(folder, "good", evaluate=0)
    commit(folder, "broken", evaluate=3)
    monkeypatch.setattr(revision, "REPOSITORY", folder)
    return folder


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path / "trials", "/raw", "2026-01-23", 3)


def worktrees(repository: Path) -> int:
    return git(repository, "worktree", "list").count("\n") - 1


def test_the_code_of_a_ref_runs_the_road_and_judges_it(repository, trial):
    address = judged_root("good", commit_of("good"), trial)
    commit_ = commit_of("good")[:16]
    root = trial.folder / commit_
    assert address == f"{root}/runs/date=2026-01-23"
    ran, judged = (root / "said.txt").read_text().splitlines()
    assert ran == f"batch --date 2026-01-23 --raw /raw --root {root} --shards 3 {commit_} {commit_}"
    assert judged.startswith("evaluate run --from 2026-01-23 --to 2026-01-23 --raw /raw ")
    assert worktrees(repository) == 0
    assert not (trial.folder / "code" / commit_).exists()


def test_what_cannot_be_judged_is_said_and_leaves_no_worktree(repository, trial):
    with pytest.raises(RevisionError, match=r"nothing is neither a folder nor a git ref of .*: give the root of a run"):
        commit_of("nothing")
    with pytest.raises(RevisionError, match=r"old \(.{10}\) has no jobs/evaluate.py: it is older than this comparison"):
        judged_root("old", commit_of("old"), trial)
    with pytest.raises(RevisionError, match=r"jobs.evaluate of broken \(.{10}\) ended with 3, its own words are above"):
        judged_root("broken", commit_of("broken"), trial)
    assert worktrees(repository) == 0


def test_a_place_that_cannot_be_written_is_said(repository, trial):
    trial.folder.mkdir()
    (trial.folder / "code").touch()
    with pytest.raises(RevisionError, match=r"git cannot check .{10} out into .*"):
        judged_root("good", commit_of("good"), trial)


def test_a_worktree_is_removed_when_its_owner_ends_and_one_left_behind_by_the_next(repository, tmp_path):
    here, found = tmp_path / "here", commit_of("good")
    with pytest.raises(KeyboardInterrupt), checked_out(found, here):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), checked_out(found, here):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    git(repository, "worktree", "add", "--detach", str(here), found)  # as a killed machine leaves it
    with checked_out(found, here) as code:
        assert (code / "jobs" / "batch.py").exists()
    assert worktrees(repository) == 0
    assert not here.exists()


def test_uncommitted_files_are_told(repository):
    assert uncommitted() == []
    (repository / "jobs" / "batch.py").write_text("changed")
    assert uncommitted() == ["jobs/batch.py"]


def test_a_hook_does_not_lead_git_astray(repository, monkeypatch):
    expected = commit_of("good")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit_of("good") == expected


def compare(root: Path, *arguments: str) -> int:
    return evaluate.main(["diff", "--root", str(root), *arguments])


def test_both_sides_are_known_before_one_runs(repository, tmp_path, capsys):
    root = tmp_path / "root"
    assert compare(root, "--base", "good", "--head", "../typo", "--input", "x", "--date", "2026-01-23") == 1
    assert "../typo is neither a folder nor a git ref" in capsys.readouterr().err
    assert not root.exists()


def test_an_input_needs_a_date_and_a_local_folder(repository, tmp_path, capsys):
    (repository / "new").touch()
    assert compare(tmp_path / "root", "--base", "good", "--head", "good", "--input", "x") == 1
    told = capsys.readouterr().err
    assert "INPUT= needs DATE=, the date to run" in told
    assert "1 uncommitted file(s) are in no ref, new for one" in told
    assert evaluate.main(["diff", "--root", "gs://bucket", "--base", "good", "--head", "good"]) == 1
    assert "refs are run under a local folder, came ROOT=gs://bucket" in capsys.readouterr().err


def test_refs_are_judged_and_then_compared(repository, tmp_path, capsys):
    root = tmp_path / "root"
    assert compare(root, "--base", "good", "--head", "good", "--input", "x", "--date", "2026-01-23") == 1
    assert "have no judged date in common" in capsys.readouterr().err, "these commands judge nothing"
    (said,) = root.rglob("said.txt")
    assert len(said.read_text().splitlines()) == 4
    assert worktrees(repository) == 0


def test_a_ref_is_the_commit_that_it_named_when_the_comparison_began(repository, tmp_path, monkeypatch):
    """The first side takes an hour or more, in which work goes on."""
    commits, ran = {name: commit_of(name) for name in ("broken", "good")}, {}

    def run(ref: str, commit: str, trial: Trial) -> str:
        ran[ref] = commit
        git(repository, "tag", "--force", "good", "old")
        return str(tmp_path / ref)

    monkeypatch.setattr(evaluate, "judged_root", run)
    compare(tmp_path / "root", "--base", "broken", "--head", "good", "--input", "x", "--date", "2026-01-23")
    assert commit_of("good") != commits["good"]
    assert ran == commits


def test_a_preset_is_a_world_that_both_refs_are_judged_on(repository, tmp_path, monkeypatch):
    """Without an input refs get a synthetic world of the preset's size, made once, that goes on 8 days after the date."""
    monkeypatch.setitem(PRESETS, "tiny", {"users": 120, "items": 2_000, "events": 3_000, "markets": 2})
    root = tmp_path / "root"
    assert compare(root, "--base", "good", "--head", "broken", "--preset", "tiny") == 1
    (said,) = root.rglob(f"tiny/{commit_of('good')[:16]}/said.txt")
    ran, judged = (line.split() for line in said.read_text().splitlines())
    raw = Path(ran[ran.index("--raw") + 1])
    assert raw == Path(judged[judged.index("--raw") + 1])
    assert raw.is_relative_to(root / "eval-diff" / "tiny")
    assert ran[ran.index("--date") + 1] == judged[judged.index("--to") + 1] == "2026-01-23"
    text = {name: (raw / name / "part-00000.jsonl").read_text() for name in ("users", "events")}
    assert len(set(re.findall(r'"user_id":"(\w+)"', text["users"]))) == 120
    assert '"event_ts":"2026-01-31T' in text["events"]
    with pytest.raises(SystemExit):
        compare(root, "--base", "good", "--head", "good", "--preset", "huge")


def test_it_is_this_interpreter(repository, trial, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RevisionError, match=r"ended with 1"):
        judged_root("good", commit_of("good"), trial)
