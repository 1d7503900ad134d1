"""Equal input gives equal bytes: again, elsewhere, at another time, in another order."""

import datetime
import re
import shutil
import sys

import polars as pl
from road_folders import TODAY, YESTERDAY, arguments, contents, start

OTHER_MACHINE = {
    "TZ": "Asia/Kathmandu",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "12345",
    "POLARS_MAX_THREADS": "1",
}
AT_ANOTHER_TIME = (
    "import sys, datetime, jobs.options;"
    "jobs.options.now = lambda: datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC);"
    "from jobs import batch; sys.exit(batch.main(sys.argv[1:]))"
)


def test_the_second_run_does_nothing_and_says_so(today, copied, capsys):
    folders = copied(today)
    before = contents(folders.root, ("data", "live", "runs"))
    assert folders.run() == 0
    said = capsys.readouterr().out
    assert re.search(r"0 of (\d+) stages ran, \1 unchanged", said)
    assert said.count("already live") == 2
    assert contents(folders.root, ("data", "live", "runs")) == before


def test_another_root_on_another_machine_at_another_time_gets_the_same_bytes(yesterday, tmp_path):
    root, log = tmp_path / "root", tmp_path / "log"
    options = arguments(yesterday.raw, root, yesterday.policy, YESTERDAY)
    command = [*_clock(datetime.date(2031, 5, 6)), sys.executable, "-c", AT_ANOTHER_TIME, *options]
    assert start(command, log, OTHER_MACHINE).wait() == 0, log.read_text()[-2000:]
    assert contents(root) == contents(yesterday.root)


def _clock(date: datetime.date) -> list[str]:
    """Return the command that sets the whole process's clock, where there is one; `now` is replaced in any case."""
    return ["faketime", f"{date} 07:08:09"] if shutil.which("faketime") else []


def test_the_day_is_delivered_by_itself(yesterday):
    delivered = pl.read_parquet(yesterday.raw / f"events/date={TODAY}", hive_partitioning=False)
    assert delivered["event_ts"].dt.date().min() == TODAY
