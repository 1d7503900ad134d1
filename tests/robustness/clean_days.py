"""Run clean days in a row and list every alarm: `python tests/robustness/clean_days.py --days 30 [--seed 7]`.

Ends with status 0 only if every day was published and no critical check failed. Warnings are listed.
"""

import argparse
import collections
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from road_folders import SMALL, TODAY, write_policy, write_raw

from jobs import backfill
from transforms.world_setting import Setting

WARM_UP_DAYS = 30
"""Days before the first one that is run: the longest look back of a check is 28 days."""


def world(days: int, users: int = SMALL.users, per_day: int = SMALL.events // SMALL.days, seed: int = 7) -> Setting:
    """Return a world of clean days, after those that checks look back to."""
    every = days + WARM_UP_DAYS
    return Setting(users, SMALL.items, per_day * every, SMALL.markets, TODAY, every, seed)


def run_days(folder: Path, setting: Setting, days: int) -> int:
    """Backfill the last days of a world under `folder`/root; return the exit status."""
    raw, policy = write_raw(folder / "raw", setting), write_policy(folder / "policy.toml")
    first = setting.end - datetime.timedelta(days=days - 1)
    return backfill.main(
        ["--raw", str(raw), "--from", str(first), "--to", str(setting.end), "--root", f"{folder}/root",
         "--shards", "2", "--policy", str(policy)]
    )  # fmt: skip


def alarms(root: Path) -> Iterator[tuple[str, str, dict]]:
    """Yield `(date, dataset, check)` of every check of a root that did not pass."""
    for record in sorted(root.glob("runs/date=*/record.json")):
        fields = json.loads(record.read_bytes())
        for name, path in fields["manifests"].items():
            manifest = json.loads(root.joinpath(path).read_bytes())
            for check in manifest["checks"] if manifest["date"] == fields["date"] else ():
                if check["outcome"] != "passed":
                    yield fields["date"], name, check


def main() -> int:
    """Run, and print a table of the alarms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segue-days-") as name:
        status = run_days(Path(name), world(options.days, seed=options.seed), options.days)
        found = list(alarms(Path(name, "root")))
        dates = len(list(Path(name, "root").glob("runs/date=*/record.json")))
    counted = collections.Counter((dataset, check["name"], check["severity"]) for _, dataset, check in found)
    for (dataset, check, severity), times in sorted(counted.items()):
        print(f"  {severity:<9} {times:3} of {dates} days  {dataset} {check}")
    false_alarms = options.days - dates + sum(check["severity"] == "critical" for _, _, check in found)
    print(f"{dates} of {options.days} clean days were published, {false_alarms} false alarms, {len(found)} warnings")
    figures = [
        {"name": "false alarms on clean days", "value": false_alarms, "unit": "alarms", "target": 0,
         "met": not false_alarms},
        {"name": "warnings on clean days", "value": len(found), "unit": "warnings", "target": None, "met": True},
    ]  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return status or int(false_alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
