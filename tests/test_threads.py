"""Libraries keep to one thread each, in whatever thread of a process they are called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
_TOLD = """
import importlib, json, sys, threading
importlib.import_module(sys.argv[1])
import faiss, numpy, torch
from threadpoolctl import threadpool_info
def tell():
    print(json.dumps([torch.get_num_threads(), faiss.omp_get_max_threads()] + [one["num_threads"] for one in threadpool_info()]))
another = threading.Thread(target=tell); another.start(); another.join()
"""


def _threads(module, **told):
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, module],
        cwd=REPOSITORY, env=inherited | told, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["jobs.batch", "jobs.stream", "transforms.index.exact", "transforms.embed.encoder"])
def test_each_library_has_one_thread(module):
    assert _threads(module) == {1}


def test_the_stream_works_on_small_tables_with_one_thread_of_polars():
    told = "import jobs.stream, polars; print(polars.thread_pool_size())"
    free = {name: value for name, value in os.environ.items() if name != "POLARS_MAX_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=REPOSITORY, env=free, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 1


def test_what_the_environment_says_stands():
    assert 2 in _threads("transforms.index.exact", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
