"""What a stage costs is measured where it is spent: in threads and in processes that have ended by then."""

import subprocess
import sys
import threading
import time

from pipelines.progress import Console

BURN = "import time\nwhile time.process_time() < 0.5: pass"


def burn() -> None:
    start = time.thread_time()
    while time.thread_time() - start < 0.5:
        pass


def test_processor_time_is_that_of_threads_and_of_children_that_ended():
    with Console(quiet=True).watch("work", 1, lambda: 0) as meter:
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()
    alone = meter.cpu_seconds
    with Console(quiet=True).watch("work", 1, lambda: 0) as meter:
        subprocess.run([sys.executable, "-c", BURN], check=True)
    assert alone >= 0.45
    assert meter.cpu_seconds >= 0.45


def test_processor_time_is_that_of_children_that_go_on():
    waits = f"input()\n{BURN}\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        with Console(quiet=True).watch("work", 1, lambda: 0) as meter:
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
        child.communicate("\n")
    assert meter.cpu_seconds >= 0.4
