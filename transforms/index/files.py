"""The files of an index, and who may open them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import polars as pl

from schemas.models import Space
from transforms.index.exact import ExactIndex
from transforms.index.factors import FLOAT32
from transforms.index.ivf import EXACT_BELOW, IvfIndex


class IndexMismatch(ValueError):
    """An index is not of the vectors, or not by the code, that it was asked for with."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What an index must agree with, besides the ids."""

    space: Space
    code_version: str


def codes_name(segment: int) -> str:
    """Return the name of the file of a segment's lists."""
    return f"{segment:05d}.codes"


def vectors_name(segment: int) -> str:
    """Return the name of the file of a segment's vectors."""
    return f"{segment:05d}.vectors"


def ids_digest(ids: pl.Series) -> str:
    """Return a digest of ids in their order."""
    return hashlib.sha256("\x1f".join(ids).encode()).hexdigest()[:32]


def open_index(records: pl.DataFrame, files: Sequence[str], ids: pl.Series, terms: Terms) -> IvfIndex:
    """Return the index of segments, their vectors mapped.

    Args:
      records: of the `index` contract. files: local paths of their artifacts. ids: of all embedded items, sorted.

    Raises:
      IndexMismatch: names what differs, and both.
    """
    records = records.sort("segment")
    _demand_agreement(records, ids, terms)
    named = {path.rpartition("/")[2]: path for path in files}
    precision = FLOAT32 if len(ids) > EXACT_BELOW else None  # of fewer, all are looked at
    codes, vectors = [], []
    for number, rows in records.select("segment", "num_rows").rows():
        codes.append(_read(named, codes_name(number), rows, 0))
        vectors.append(ExactIndex(_read(named, vectors_name(number), rows, faiss.IO_FLAG_MMAP_IFC), precision))
    return IvfIndex.join(codes, vectors)


def _demand_agreement(records: pl.DataFrame, ids: pl.Series, terms: Terms) -> None:
    for what, theirs, ours in _facts(records, ids, terms):
        if theirs != ours:
            raise IndexMismatch(
                f"the index has {what} {theirs}, but is asked for with {what} {ours}: run the date again, which builds"
                " the index anew"
            )


def _facts(records: pl.DataFrame, ids: pl.Series, terms: Terms) -> Iterator[tuple[str, Any, Any]]:
    """Yield what an index says and what is asked for, by what it is."""
    yield "segments", records["segment"].to_list(), list(range(records.height))
    first = 0
    for row in records.iter_rows(named=True):
        yield "space", row["space_id"], terms.space.id
        yield "metric", row["metric"], terms.space.metric
        yield "code version", row["code_version"], terms.code_version
        yield "ids", row["ids_digest"], ids_digest(ids[first : first + row["num_rows"]])
        first += row["num_rows"]
    yield "items", first, len(ids)


def _read(named: dict[str, str], name: str, rows: int, flags: int) -> Any:
    try:
        index: Any = faiss.read_index(named[name], flags)
    except (KeyError, RuntimeError) as error:
        raise IndexMismatch(
            f"the file {name} of the index is missing or broken ({error}): run the date again after deleting its index"
        ) from error
    if index.ntotal != rows:
        raise IndexMismatch(
            f"the file {name} of the index holds {index.ntotal:,} vectors, its record says {rows:,}: delete the index and"
            " run the date again"
        )
    return index
