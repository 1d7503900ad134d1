from pathlib import Path

import pytest

import validation.thresholds
from validation.thresholds import default_thresholds, parse_thresholds

TEXT = Path(validation.thresholds.__file__).with_suffix(".toml").read_text(encoding="utf-8")


def test_the_default_file_is_read():
    limits = default_thresholds()
    assert (limits.events.schema_valid, limits.item.rows_fall_block, limits.candidate_set.below_minimum) == (
        0.999,
        0.05,
        0.001,
    )


def test_every_threshold_says_where_it_comes_from():
    lines = [line for line in TEXT.splitlines() if "=" in line and not line.startswith("#")]
    assert len(lines) > 40
    assert [line for line in lines if len(line.partition("#")[2].strip()) < 20] == []


@pytest.mark.parametrize("section", ["events", "item", "dataset", "candidate_set"])
def test_unknown_keys_are_refused(section):
    text = TEXT.replace(f"[{section}]", f"[{section}]\nrows_wran = 1")
    with pytest.raises(ValueError, match=rf"thresholds \[{section}\]: unknown keys \['rows_wran'\], missing keys \[\]"):
        parse_thresholds(text)


def test_missing_keys_are_refused():
    with pytest.raises(ValueError, match=r"unknown keys \[\], missing keys \['psi_warn'\]; it takes exactly"):
        parse_thresholds(TEXT.replace("psi_warn", "# psi_warn"))


def test_unknown_sections_are_refused():
    with pytest.raises(ValueError, match=r"thresholds: unknown keys \['more'\]"):
        parse_thresholds(TEXT + "\n[more]\n")


@pytest.mark.parametrize("value", ['"0.1"', "true", "-0.1"])
def test_what_is_no_threshold_is_refused(value):
    with pytest.raises(ValueError, match=r"thresholds \[events\] psi_warn: expected a number of at least 0, got"):
        parse_thresholds(TEXT.replace("psi_warn = 0.1", f"psi_warn = {value}"))
