"""Imports point one way, heavy libraries have one owner each, and nothing grows past its limit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("schemas", "validation", "transforms", "pipelines", "jobs")
OWNERS = {
    "great_expectations": ("validation/expectations.py",),
    "google.cloud.storage": ("transforms/io/gcs.py",),
    "google.cloud": ("transforms/io/",),
    "google.pubsub_v1": ("transforms/io/pubsub.py",),
    "grpc": ("transforms/io/",),
    "torch": ("transforms/embed/", "transforms/index/"),
    "faiss": ("transforms/index/",),
    "numba": ("transforms/compiled.py",),
    "llvmlite": ("transforms/compiled.py",),
    "lightgbm": ("transforms/embed/fuse.py",),
}
NO_BEAM = ("schemas", "validation")
MODULE_LINES, FUNCTION_LINES, ARGUMENTS = 500, 40, 7
MODULES = sorted(str(path.relative_to(ROOT)) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every imported name in full, wherever in the module the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)


def wrong_arrows(module: str, names: Iterator[str]) -> list[str]:
    """Return the imports that lead from a layer to a later one, or to the tests and benchmarks."""
    allowed = LAYERS[: LAYERS.index(module.split("/")[0]) + 1]
    return [n for n in names if n.split(".")[0] in {*LAYERS, "tests", "benchmarks"} - set(allowed)]


def strangers(module: str, names: Iterator[str]) -> list[str]:
    """Return the imports of libraries that another module owns."""
    return [
        name
        for name in names
        for library, owners in OWNERS.items()
        if f"{name}.".startswith(f"{library}.") and not module.startswith(owners)
    ]


def too_big(tree: ast.Module, lines: int) -> list[str]:
    """Return what is over a limit, with its figure."""
    found = [f"{lines} lines"] if lines > MODULE_LINES else []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = node.args
            given = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            count = len([name for name in given if name not in ("self", "cls")])
            found += [f"{node.name}: {length} lines"] if length > FUNCTION_LINES else []
            found += [f"{node.name}: {count} arguments"] if count > ARGUMENTS else []
    return found


def parse(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def package(module: str) -> str:
    return module.rpartition("/")[0].replace("/", ".")


def test_every_layer_is_walked():
    assert {module.split("/")[0] for module in MODULES} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert wrong_arrows(module, imports(parse(module), package(module))) == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_have_one_owner(module):
    assert strangers(module, imports(parse(module), package(module))) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(NO_BEAM)])
def test_contracts_and_checks_know_no_beam(module):
    assert [name for name in imports(parse(module), package(module)) if name.startswith("apache_beam")] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_too_big(module):
    tree = parse(module)
    assert too_big(tree, len((ROOT / module).read_text(encoding="utf-8").splitlines())) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("schemas/item.py", "import pipelines.runner", ["pipelines.runner"]),
        ("transforms/io/store.py", "def f():\n  from jobs import batch", ["jobs.batch"]),
        ("transforms/io/store.py", "from ..blend import one", []),
        ("validation/rows.py", "from tests.toys import one", ["tests.toys.one"]),
        ("jobs/batch.py", "import schemas, validation, transforms.io, pipelines", []),
    ],
)
def test_a_wrong_arrow_is_found(module, source, wrong):
    assert wrong_arrows(module, imports(ast.parse(source), package(module))) == wrong


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("validation/gates.py", "import great_expectations as gx", ["great_expectations"]),
        ("transforms/blend.py", "from google.cloud import storage", ["google.cloud.storage"]),
        ("jobs/batch.py", "if True:\n  import torch.nn", ["torch.nn"]),
        ("jobs/batch.py", "import torchlike", []),
        ("transforms/io/gcs.py", "from google.cloud import storage", []),
    ],
)
def test_a_stranger_is_found(module, source, wrong):
    assert sorted(set(strangers(module, imports(ast.parse(source), package(module))))) == wrong


def test_what_is_too_big_is_found():
    body = "\n".join(["  pass"] * 40)
    tree = ast.parse(f"def long():\n{body}\nclass A:\n def wide(self, a, b, c, d, e, f, *, g, h): ...")
    assert too_big(tree, 501) == ["501 lines", "long: 41 lines", "wide: 8 arguments"]
