import datetime
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.candidates import CANDIDATE_SET
from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import EVENT
from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen
from validation.expectations import SqlCheck, suite, validate
from validation.rows import polars_schema, row_rules

EVERY_KIND = Contract(
    "thing", "1.0.0", "tests", "Every kind of rule.", ("id",), None,
    pa.schema([
        column("id", pa.string(), "I.", rules=(Required(), MaxLength(12))),
        column("kind", pa.string(), "K.", rules=(OneOf(("play", "skip")),)),
        column("count", pa.int32(), "C.", nullable=True, rules=(Between(0, 100),)),
        column("large", pa.int64(), "L.", nullable=True, rules=(Between(-9.2e18, 9.2e18), AtMost("count", 1.5, 10.0))),
        column("score", pa.float32(), "S.", nullable=True, rules=(Between(-0.1, 0.7), AtMost("count", 0.01, 0.0))),
        column("played", pa.int64(), "P.", nullable=True, rules=(RequiredWhen("kind", ("play",)),)),
        column("seen", TIMESTAMP, "E.", nullable=True),
        column("sent", TIMESTAMP, "T.", nullable=True, rules=(NotAfter("seen", 5),)),
        column("tags", pa.list_(pa.string()), "G.", nullable=True, rules=(MaxLength(2),)),
        column("parts", pa.list_(pa.struct([pa.field("a", pa.int32())])), "A.", rules=(MaxLength(2),)),
        column("vector", pa.list_(pa.float32(), 2), "V.", nullable=True),
        column("flag", pa.bool_(), "F."),
    ]),
)  # fmt: skip
NAMES = [name for name, _ in row_rules(EVERY_KIND)]


def any_of(rng: np.random.Generator, values: list, rows: int) -> list:
    return [values[i] for i in rng.integers(0, len(values), rows)]


def random_rows(seed: int, rows: int = 200) -> pl.DataFrame:
    """Return rows at and around every bound; each rule is broken by some of them."""
    rng = np.random.default_rng(seed)
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = [None, *(start + datetime.timedelta(seconds=5, microseconds=n) for n in (-5_000_000, -1, 0, 1))]
    columns = {
        "id": [f"{n}" if n % 9 else any_of(rng, ["", None, f"åäö{n:07d}", f"abc{n:09d}"], 1)[0] for n in range(rows)],
        "kind": any_of(rng, ["play", "skip", "", "Play", None], rows),
        "count": any_of(rng, [0, 100, -1, 101, 7, None], rows),
        "large": any_of(rng, [9_200_000_000_000_000_000, 9_200_000_000_000_000_001, -(2**63), 0, 20, 21, None], rows),
        "score": any_of(rng, [-0.1, 0.7, 0.70001, 0.07, float("nan"), float("inf"), float("-inf"), None], rows),
        "played": any_of(rng, [0, None], rows),
        "seen": any_of(rng, [None, start], rows),
        "sent": any_of(rng, times, rows),
        "tags": any_of(rng, [None, [], ["a", None], ["a", "b", "c"]], rows),
        "parts": any_of(rng, [None, [], [{"a": 1}], [{"a": 1}] * 3], rows),
        "vector": any_of(rng, [None, [0.0, 1.0]], rows),
        "flag": any_of(rng, [True, False, None], rows),
    }
    return pl.DataFrame(columns, schema=polars_schema(EVERY_KIND))


def broken_rows(frame: pl.DataFrame) -> dict[str, int]:
    counts = frame.select(expression.sum().alias(name) for name, expression in row_rules(EVERY_KIND))
    return dict(zip(counts.columns, counts.row(0)))


def stage(frame: pl.DataFrame, contract: Contract, folder) -> list[str]:
    """Write two files, under a folder that looks like a partition."""
    folder = folder / "date=2026-01-01"
    folder.mkdir(exist_ok=True)
    half = frame.height // 2
    for number, part in enumerate([frame[:half], frame[half:]]):
        nullable = pa.schema([field.with_nullable(True) for field in contract.schema])
        pq.write_table(part.to_arrow().cast(nullable), folder / f"{number}'s.parquet")
    return [str(folder / f"{number}'s.parquet") for number in range(2)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_polars_sql_and_great_expectations_agree_on_random_rows(seed, tmp_path):
    frame = random_rows(seed)
    expected = broken_rows(frame)
    assert min(expected.values()) > 0, "a rule that no row breaks proves nothing"
    results = {r.name: r for r in validate(EVERY_KIND, stage(frame, EVERY_KIND, tmp_path))}
    assert list(results) == ["columns:declared", *NAMES, "id:unique"]
    assert {name: results[name].observed for name in NAMES} == expected
    assert {results[name].outcome for name in NAMES} == {"failed"}


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_no_row_breaks_passes_while_others_fail(name, tmp_path):
    (expression,) = [expression for other, expression in row_rules(EVERY_KIND) if other == name]
    frame = random_rows(4).filter(~expression)
    results = {r.name: r for r in validate(EVERY_KIND, stage(frame, EVERY_KIND, tmp_path))}
    assert (results[name].outcome, results[name].observed) == ("passed", 0)
    assert {n: results[n].observed for n in NAMES} == broken_rows(frame)
    assert {n: results[n].outcome for n in NAMES} == {
        n: "failed" if count else "passed" for n, count in broken_rows(frame).items()
    }


def good_rows(rows: int = 4) -> pl.DataFrame:
    one = {"kind": "skip", "count": 5, "parts": [], "flag": True}
    return pl.DataFrame([{"id": f"i{n}", **one} for n in range(rows)], schema=polars_schema(EVERY_KIND))


def test_good_rows_pass_with_their_denominator(tmp_path):
    results = validate(EVERY_KIND, stage(good_rows(), EVERY_KIND, tmp_path))
    assert {r.outcome for r in results} == {"passed"}
    assert {r.layer for r in results} == {"expectations"}
    assert {r.of for r in results if r.name in NAMES} == {4}


def test_a_repeated_key_is_found_and_its_surplus_rows_counted(tmp_path):
    frame = pl.concat([good_rows(), good_rows()[:1], good_rows()[:1]])
    (failed,) = [r for r in validate(EVERY_KIND, stage(frame, EVERY_KIND, tmp_path)) if r.outcome != "passed"]
    assert (failed.name, failed.outcome, failed.severity, failed.observed) == ("id:unique", "failed", "critical", 2)
    assert "2 of 6 staged rows break id:unique: a second row with the same id" in failed.message


def test_a_compound_key_may_repeat_its_parts(tmp_path):
    schema = pa.schema([column("a", pa.string(), "A."), column("b", pa.int32(), "B.")])
    contract = Contract("pair", "1.0.0", "t", "P.", ("a", "b"), None, schema)
    good = pl.DataFrame({"a": ["x", "x", "y"], "b": [1, 2, 1]}, schema=polars_schema(contract))
    assert {r.outcome for r in validate(contract, stage(good, contract, tmp_path))} == {"passed"}
    bad = validate(contract, stage(pl.concat([good, good[:1]]), contract, tmp_path))
    assert [(r.name, r.observed) for r in bad if r.outcome == "failed"] == [("a+b:unique", 1)]


def test_other_columns_are_one_result_that_names_them(tmp_path):
    frame = good_rows().rename({"played": "ms"}).with_columns(pl.col("count").cast(pl.Int64))
    path = str(tmp_path / "drifted.parquet")
    frame.write_parquet(path)
    (result,) = validate(EVERY_KIND, [path])
    assert (result.name, result.outcome) == ("columns:declared", "failed")
    assert "expected ['2 count INTEGER', '5 played BIGINT'], found ['2 count BIGINT', '5 ms BIGINT']" in result.message


def test_reordered_columns_fail(tmp_path):
    path = str(tmp_path / "reordered.parquet")
    good_rows().select(reversed(EVERY_KIND.schema.names)).write_parquet(path)
    assert validate(EVERY_KIND, [path])[0].outcome == "failed"


def test_a_truncated_file_is_broken_not_failed(tmp_path):
    paths = stage(good_rows(), EVERY_KIND, tmp_path)
    with open(paths[0], "rb+") as file:
        file.truncate(100)
    (result,) = validate(EVERY_KIND, paths)
    assert (result.name, result.outcome, result.severity) == ("files:readable", "broken", "critical")
    assert "says nothing about the data" in result.message
    assert "run the stage again" in result.message


def test_a_check_that_raises_on_the_rows_is_broken(tmp_path):
    extra = [SqlCheck("id:number", "CAST(id AS INTEGER) < 0")]
    results = {r.name: r for r in validate(EVERY_KIND, stage(good_rows(), EVERY_KIND, tmp_path), extra)}
    assert results["id:number"].outcome == "broken"
    assert results["id:number"].observed is None
    assert "the check could not run, which says nothing about the data" in results["id:number"].message
    assert results["columns:declared"].outcome == "passed"


def test_extra_checks_run_with_their_severity(tmp_path):
    extra = [SqlCheck("count:five", "count = 5", "warning"), SqlCheck("count:six", "count = 6")]
    results = {r.name: r for r in validate(EVERY_KIND, stage(good_rows(), EVERY_KIND, tmp_path), extra)}
    assert (results["count:five"].outcome, results["count:five"].severity, results["count:five"].observed) == (
        "failed",
        "warning",
        4,
    )
    assert results["count:six"].outcome == "passed"


def test_an_extra_check_that_is_no_sql_is_broken(tmp_path):
    results = validate(EVERY_KIND, stage(good_rows(), EVERY_KIND, tmp_path), [SqlCheck("x", "count +")])
    assert [(r.name, r.outcome) for r in results[1:]] == [("checks:compiled", "broken")]
    assert "mend the extra check" in results[1].message


def test_no_files_are_refused():
    with pytest.raises(ValueError, match="no files of thing to check: expected at least one"):
        validate(EVERY_KIND, [])


def test_the_suite_uses_native_expectations_where_there_are_any():
    kinds = {e.meta["name"]: type(e).__name__ for e in suite(EVERY_KIND).expectations}
    assert kinds["kind:required"] == "ExpectColumnValuesToNotBeNull"
    assert kinds["kind:one_of"] == kinds["tags:max_length"] == "ExpectColumnValuesToBeInSet"
    assert kinds["count:between"] == "ExpectColumnValuesToBeBetween"
    assert kinds["id:unique"] == "ExpectColumnValuesToBeInSet"


@pytest.mark.parametrize("contract", [EVENT, CANDIDATE_SET], ids=["event", "candidate_set"])
def test_an_empty_dataset_of_a_real_contract_passes(contract, tmp_path):
    path = str(tmp_path / "empty.parquet")
    pq.write_table(contract.schema.empty_table(), path)
    results = validate(contract, [path])
    assert {r.outcome for r in results} == {"passed"}
    assert {r.of for r in results[1:]} == {0}


def test_nothing_else_imports_great_expectations():
    modules = (
        "validation.gates, validation.page, validation.statistics, validation.rows, validation.sql, validation.waivers"
    )
    code = f"import sys, {modules}; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
