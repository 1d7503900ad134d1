"""The quick hash of texts: the same for equal texts however they lie in memory, different for others, and even."""

import numpy as np
import pyarrow as pa

from schemas.hashing import mix64, mix_text, unit_interval

IDS = [f"track-{number:06d}" for number in range(50_000)]


def test_equal_texts_have_equal_numbers_wherever_they_lie():
    whole = mix_text(pa.array([*IDS, "åäö", ""]))
    assert len(np.unique(whole)) == len(IDS) + 2
    assert (mix_text(pa.array(["x", *IDS[7:20], "y"]).slice(1, 13)) == whole[7:20]).all()
    assert (mix_text(pa.chunked_array([IDS[:3], IDS[3:9]])) == whole[:9]).all()
    assert mix_text(pa.array(IDS[:9], pa.large_string())).tolist() == whole[:9].tolist()
    assert mix_text(pa.array([None, ""], pa.string())).tolist() == [whole[-1]] * 2
    assert mix_text(pa.array([], pa.string())).tolist() == []


def test_texts_that_differ_in_length_alone_differ():
    assert len(set(mix_text(pa.array(["", "\0", "\0\0", "a", "a\0"])).tolist())) == 5


def test_numbers_are_spread_evenly_and_apart_from_their_neighbours():
    drawn = unit_interval(mix64(mix_text(pa.array(IDS)), np.full(len(IDS), np.uint64(7))))
    expected = len(IDS) / 64
    counts = np.histogram(drawn, bins=64, range=(0, 1))[0]
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square of 63 degrees: 1 in 10,000 above 113
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
