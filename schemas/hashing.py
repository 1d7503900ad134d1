"""Stable hashes: sharding, tie-breaks and everything else that must look random and be repeatable.

polars' and Python's own hashes change with version and process; these do not.
"""

import hashlib
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shard_of(ids: pa.Array | pa.ChunkedArray, num_shards: int) -> np.ndarray:
    """Return the shard of every id: `crc32(utf-8) % num_shards`; a null goes to shard 0.

    Args:
      ids: `(n,)` strings.

    Returns:
      `(n,) int32`.
    """
    return _through_dictionary(ids, lambda value: zlib.crc32(value.encode()) % num_shards, np.int32)


def hash64(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the first eight bytes of blake2b of every id, `(n,) uint64`; a null hashes to 0."""
    return _through_dictionary(ids, lambda value: hash64_one(value), np.uint64)


def mix_text(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a number per id from its bytes, `(n,) uint64`, several times as fast as `hash64`; a null is as an empty id.

    For what only has to look random, tie-breaks for example: a polynomial in `_GOLDEN` over the bytes, then `mix64` with
    the length. Who knows it can write ids that collide.
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    ids = pc.fill_null(ids.cast(pa.large_string()), "")
    _, offsets, data = ids.buffers()
    ends = (
        np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1] if len(ids) else np.zeros(1, np.int64)
    )
    bytes_ = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(ends)
    place = np.arange(len(bytes_)) - np.repeat(ends[:-1] - ends[0], lengths)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max(initial=0)), _GOLDEN))
        sums = np.append(np.uint64(0), np.cumsum((bytes_ + np.uint64(1)) * powers[place], dtype=np.uint64))
        return mix64(sums[ends[1:] - ends[0]] - sums[ends[:-1] - ends[0]], lengths.astype(np.uint64))


def hash64_one(text: str) -> int:
    """Return what `hash64` returns for one string."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix64(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Combine two `uint64` arrays into one that depends on both (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = np.asarray(left, np.uint64) * _GOLDEN ^ np.asarray(right, np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def unit_interval(hashes: np.ndarray) -> np.ndarray:
    """Map `uint64` hashes to `[0, 1)` float64, from their 53 high bits."""
    return (np.asarray(hashes, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _through_dictionary(ids, function, dtype) -> np.ndarray:
    """Hash each distinct id once."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not pa.types.is_dictionary(ids.type):
        ids = pc.dictionary_encode(ids)
    table = np.fromiter((function(value.as_py()) for value in ids.dictionary), dtype, len(ids.dictionary))
    indices = ids.indices.to_numpy(zero_copy_only=False)
    if ids.null_count == 0:
        return table[indices]
    filled = np.where(np.isnan(indices), len(table), indices).astype(np.int64)
    return np.append(table, dtype(0))[filled]
