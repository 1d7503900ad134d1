import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
