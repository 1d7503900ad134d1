import subprocess
import sys

import pytest

from jobs.plan import main
from transforms.index.plan import Sizes, plan

LARGE = ["--items", "100000000", "--users", "600000000", "--dim", "128", "--workers", "1000"]


def printed(capsys: pytest.CaptureFixture, *arguments: str) -> list[str]:
    assert main([*LARGE, *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_page_shows_every_option_and_marks_the_chosen_one(capsys):
    lines = printed(capsys)
    assert lines[0] == "  100,000,000 items, 600,000,000 users, dim 128, k 500, 184 markets"
    assert lines[1] == "  1,000 workers of one core and 16 GiB, 0 GPUs"
    heads = lines[3].split("  ")
    assert [head.strip() for head in heads if head] == [
        "method", "memory per worker", "work", "with these", "recall@500", "fits",
    ]  # fmt: skip
    planned = plan(Sizes(100_000_000, 600_000_000, 128, 1_000))
    rows = lines[4 : 4 + len(planned.options)]
    assert [line[4:].startswith(one.method) for line, one in zip(rows, planned.options, strict=True)] == [True] * 4
    assert [line[2] for line in rows] == [">", " ", " ", " "]
    assert rows[0].split()[-1] == "yes"
    assert "35,067 core h" in rows[0]
    assert rows[-1].endswith("no GPU (GPUS=)")


def test_the_page_says_why_what_is_moved_and_what_it_rests_on(capsys):
    page = " ".join(" ".join(printed(capsys, "--hours", "10")).split())
    for words in (
        "exact, float32. It is the cheapest that fits into 16 GiB and reaches recall 0.99; none of those also is done",
        "IVF-PQ, refined: reached recall 0.949",
        "shards 5, of 20,000,000 items at the most",
        "15.9 GiB 35,067 core h 35 h 1.000 yes",
        "512 of vectors, mapped and shared by the processes of a machine",
        "286 of what is open to whom",
        "68.4 GiB to the disk of each of 1,000 workers, once; users 286.1 GiB in; results 2,235.2 GiB out",
        "! more workers are needed to be done in 10 hours: WORKERS=3507",
        "float32: 2.1 ns per score at dim 128",
        "python -m benchmarks.retrieval",
        "a roof from data sheets",
    ):
        assert words in page


def test_options_reach_the_rule(capsys):
    lines = printed(
        capsys, "--gpus", "8", "--bfloat16", "--recall", "0.9", "--k", "100", "--markets", "1", "--memory", "64"
    )
    assert lines[0].endswith("k 100, 1 market")
    assert lines[1].endswith("64 GiB, 8 GPUs")
    assert not any("no GPU" in line or "no bfloat16" in line for line in lines)
    assert any("recall 0.9." in line for line in lines)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--items", "0"], "plan: items must be 1 or more, got 0; give the number of vectors that are searched among"),
        (["--dim", "4096"], "plan: dim must be 2,048 or less, got 4,096; train vectors of fewer components"),
        (["--recall", "99"], "plan: recall must be above 0 and 1 at the most, got 99.0; 1 asks for the exact best k"),
    ],
)
def test_nonsense_is_one_line_and_status_2(capsys, wrong, said):
    assert main([*LARGE, *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{said}\n"


def test_it_runs_by_itself_without_an_index_library():
    loaded = "import sys, jobs.plan; print({'faiss', 'torch', 'apache_beam'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "set()\n"
