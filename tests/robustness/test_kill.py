"""SIGKILL to a real process. `python tests/robustness/kill.py` does it at twenty random moments."""

from kill import finish, once_there, watch
from road_folders import contents, half_committed, live_dates, start_batch

MOMENTS = {
    "while it ingests": "staging/ingest_event-*/emitted/*.json",
    "half-way": "staging/co_listen_partial-*/emitted/*.json",
    "while it commits": "staging/exposure-now_playing-*/*",
}


def test_killed_three_times_on_one_root_it_goes_on_and_publishes_the_bytes_of_an_undisturbed_run(
    yesterday, today, copied, tmp_path
):
    folders, log = copied(yesterday), tmp_path / "log"
    looks = 0
    for when, pattern in MOMENTS.items():
        killed, seen = watch(start_batch(folders.options(), log), folders.root, once_there(pattern))
        assert killed, f"the run ended before it could be killed {when}: {log.read_text()[-2000:]}"
        assert half_committed(folders.root) == [], when
        assert set(live_dates(folders.root).values()) == {"2026-01-30"}, when
        looks += seen
    looks += finish(folders.options(), folders.root, log)
    assert looks > 20, "the reader hardly looked"
    assert contents(folders.root) == contents(today.root)
