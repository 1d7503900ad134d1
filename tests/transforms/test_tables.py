import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.candidates import PROPOSAL
from transforms.io.tables import ROW_GROUP_ROWS, write_parquet

MANY = 100_000


@pytest.mark.parametrize(
    ("words", "has_dictionary"),
    [
        ([f"item-{n:030d}" for n in range(MANY)], False),
        ([f"item-{n % 1_000:030d}" for n in range(MANY)], True),
        ([f"{n:05d}" for n in range(MANY // 2)], True),  # each once, and they fit
        ([f"{'long' * 300}{n % 2_000}" for n in range(MANY // 10)], True),  # would not fit, and come again
    ],
)
def test_strings_that_come_once_are_written_without_a_dictionary_that_would_be_given_up(words, has_dictionary):
    written = pq.ParquetFile(write_parquet(pa.table({"id": words, "n": np.zeros(len(words), np.int32)})))
    assert [has_dictionary, True] == [
        written.metadata.row_group(0).column(place).dictionary_page_offset is not None for place in range(2)
    ]
    assert written.read()["id"].to_pylist() == words


def test_only_the_first_group_of_rows_is_looked_at():
    words = ["same"] * ROW_GROUP_ROWS + [f"item-{n:030d}" for n in range(MANY)]
    written = pq.ParquetFile(write_parquet(pa.table({"id": words})))
    assert all(written.metadata.row_group(n).column(0).dictionary_page_offset is not None for n in range(2))


def test_texts_that_rows_are_not_in_order_of_have_no_bounds():
    contract = dataclasses.replace(PROPOSAL, shard_by="source_id")  # keyed by `key` first
    names = ["key", "source_id", "item_id", "source_rank", "seed_item_ids"]
    table = pa.table({name: pa.array([], PROPOSAL.schema.field(name).type) for name in names})
    table = pa.concat_tables([table, pa.table([["k"], ["s"], ["i"], [1], [["i"]]], schema=table.schema)])
    for given, bounded in ((contract, ["key", "source_id", "source_rank"]), (None, names)):
        path = write_parquet(table, given)
        group = pq.ParquetFile(path).metadata.row_group(0)
        told = [group.column(n) for n in range(len(names))]
        assert [one.path_in_schema.split(".")[0] for one in told if one.is_stats_set] == bounded
        assert pq.read_table(path).equals(table)
