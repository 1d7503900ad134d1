"""The thresholds of the statistics checks, read from `thresholds.toml` beside this module."""

import dataclasses
import functools
import tomllib
from pathlib import Path
from typing import Any, TypeVar

_Section = TypeVar("_Section")


@dataclasses.dataclass(frozen=True, slots=True)
class EventThresholds:
    """Section `events`."""

    schema_valid: float
    duplicates_warn: float
    duplicates_block: float
    conflicts_warn: float
    conflicts_block: float
    rows_warn: float
    rows_block: float
    rows_block_always: float
    noise_warn: float
    noise_block: float
    min_days: int
    market_share: float
    market_rows: int
    market_present: float
    ms_played_plausible: float
    clock: float
    known_users_warn: float
    known_users_block: float
    psi_warn: float
    psi_block: float
    psi_design_effect: float
    behaviour_warn: float
    behaviour_block: float


@dataclasses.dataclass(frozen=True, slots=True)
class ItemThresholds:
    """Section `item`."""

    rows_fall_warn: float
    rows_rise_warn: float
    rows_fall_block: float
    eligible_fall_block: float
    market_users: float
    description_warn: float
    age_days_warn: float


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetThresholds:
    """Section `dataset`: what any dataset is held to."""

    vanished_share: float
    rows_fall_warn: float
    rows_fall_block: float
    machine_warn: float
    known_items_warn: float


@dataclasses.dataclass(frozen=True, slots=True)
class CandidateSetThresholds:
    """Section `candidate_set`: candidate sets and the exposure of items in them."""

    below_minimum: float
    small_catalogue: float
    fallback_warn: float
    fallback_block: float
    content_floors_warn: float
    top100_warn: float
    top100_rise_warn: float
    top100_min_items: int
    single_item_block: float
    single_item_small: float
    single_item_small_items: int
    single_item_times_chance: float
    single_item_rise_warn: float
    jaccard_warn: float
    jaccard_block: float
    jaccard_times_chance: float
    source_change_warn: float
    source_keys_warn: float
    scores_warn: float
    scores_block: float
    scores_days: int
    slots_below_least_warn: float
    source_share: float
    coverage_fall_warn: float
    gini_rise_warn: float
    kept_least_warn: float
    kept_most_warn: float
    kept_least_users: int
    arms_fall_warn: float
    arms_least_slots: float
    exploration_block: float
    replay_block: float
    vectors_age_hours_block: float
    fresh_least: float


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingThresholds:
    """Section `embedding`: vectors of items and users."""

    item_coverage: float
    user_coverage: float
    mean_cosine_warn: float
    rank_warn: float
    repeated_warn: float
    overlap_warn: float
    overlap_block: float
    popularity_warn: float
    popularity_block: float
    sample_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class IndexThresholds:
    """Section `index`."""

    recall: float
    slice_recall: float
    slice_items: int
    self_retrieval: float


@dataclasses.dataclass(frozen=True, slots=True)
class Thresholds:
    """All thresholds; what each means and where it comes from is said in `thresholds.toml`."""

    events: EventThresholds
    item: ItemThresholds
    dataset: DatasetThresholds
    candidate_set: CandidateSetThresholds
    embedding: EmbeddingThresholds
    index: IndexThresholds


@functools.cache
def default_thresholds() -> Thresholds:
    """Return the thresholds that come with the code."""
    return parse_thresholds(Path(__file__).with_name("thresholds.toml").read_text("utf-8"))


def parse_thresholds(text: str) -> Thresholds:
    """Read thresholds from TOML.

    Raises:
      ValueError: an unknown, missing or non-numeric key, or a negative number.
    """
    tables = tomllib.loads(text)
    sections = {field.name: field.type for field in dataclasses.fields(Thresholds)}
    _demand_keys("thresholds", sections, tables)
    return Thresholds(
        _section(EventThresholds, "events", tables["events"]),
        _section(ItemThresholds, "item", tables["item"]),
        _section(DatasetThresholds, "dataset", tables["dataset"]),
        _section(CandidateSetThresholds, "candidate_set", tables["candidate_set"]),
        _section(EmbeddingThresholds, "embedding", tables["embedding"]),
        _section(IndexThresholds, "index", tables["index"]),
    )


def _section(kind: type[_Section], name: str, table: dict[str, Any]) -> _Section:
    _demand_keys(f"thresholds [{name}]", {field.name for field in dataclasses.fields(kind)}, table)  # type: ignore[arg-type]
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ValueError(
                f"thresholds [{name}] {key}: expected a number of at least 0, got {value!r}; correct the file"
            )
    return kind(**table)


def _demand_keys(where: str, known: Any, given: Any) -> None:
    unknown, missing = sorted(set(given) - set(known)), sorted(set(known) - set(given))
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}; it takes exactly {sorted(known)}")
