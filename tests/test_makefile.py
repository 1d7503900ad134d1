"""What `make` promises a person, and the pages that send them there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run make without what an outer make left in the environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ROOT", "ARGS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=inherited | environment, capture_output=True, text=True)


def test_help_lists_every_target_in_one_line_each():
    *lines, last = make("help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == TARGETS
    assert all(20 < len(line) < 138 for line in lines)
    assert "ROOT=" in last


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["batch"], "RAW"),
        (["batch", "RAW=x"], "DATE"),
        (["backfill", "RAW=x"], "FROM"),
        (["backfill", "RAW=x", "FROM=2026-01-01"], "TO"),
        (["explain"], "USER"),
        (["explain", "USER=u"], "SURFACE"),
        (["explain", "SURFACE=now_playing"], "SEED"),
        (["report"], "DATE"),
        (["rollback"], "SURFACE"),
        (["world"], "RAW"),
        (["plan"], "ITEMS"),
        (["delta"], "RAW"),
        (["replay"], "RAW"),
        (["watch"], "USER"),
        (["evaluate"], "FROM"),
        (["evaluate", "FROM=2026-01-20"], "TO"),
        (["eval-diff"], "BASE"),
        (["eval-diff", "BASE=x"], "HEAD"),
        (["plan", "ITEMS=1", "USERS=1", "DIM=1"], "WORKERS"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_an_example(arguments, missing):
    done = make(*arguments, USER="root", FORMAT="json")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"{missing} is missing. Example: make {arguments[0]} " in line
    assert f"{missing}=" in line


def test_a_shells_own_user_and_format_do_not_count():
    shown = make("-n", "batch", "RAW=x", "DATE=2026-01-31", FORMAT="pairs", SHARDS="9").stdout
    assert "jobs.batch" in shown
    assert "--format" not in shown
    assert "--shards" not in shown


def test_values_reach_the_command_whole():
    command = make("-n", "batch", "RAW=a b", "DATE=2026-01-31", "FORMAT=pairs", "WAIVERS=w.toml").stdout.splitlines()[
        -1
    ]
    for option in ('--raw "$RAW"', '--format "$FORMAT"', '--date "$DATE"', '--waivers "$WAIVERS"', '--root "$ROOT"'):
        assert option in command


@pytest.mark.parametrize("target", TARGETS)
def test_every_value_that_help_or_a_need_names_reaches_the_command(target):
    rule, told = re.search(rf"^{target}:(.*?)##(.*)$", MAKEFILE, re.MULTILINE).groups()
    names = sorted({*re.findall(r"need-([A-Z]+)", rule), *re.findall(r"\b([A-Z_]+)=", told)})
    shown = make("-n", "-W", "setup.py", target, *(f"{name}=its-{name}" for name in names)).stdout
    forms = {name: (f'"${name}"', f"its-{name}", f"--{name.lower().replace('_', '-')}") for name in names}
    reach = {name for name, some in forms.items() if any(form in shown for form in some)}
    assert reach == set(names)


@pytest.mark.parametrize(("given", "dry"), [("DRY_RUN=1", True), ("DRY_RUN=0", False), ("DRY_RUN=", False)])
def test_dry_run_is_a_switch(given, dry):
    shown = make("-n", "backfill", "RAW=x", "FROM=2026-01-01", "TO=2026-01-02", given).stdout
    assert ("--dry-run" in shown) is dry


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_targets_that_exist(page):
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= set(TARGETS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_checks_that_operations_explains_exist():
    table = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("## What each message means")[1]
    first_cells = re.findall(r"^\| (`.*?) \|", table.split("\n## ")[0], re.MULTILINE)
    words = re.findall(r"`([a-z0-9_:]+)(?:\.\.\.)?`", " ".join(first_cells))
    sources = [*(ROOT / "validation").glob("*.py"), *(ROOT / "pipelines").glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert len(words) > 20
    assert [word for word in words if word.rstrip(":") not in code] == []
