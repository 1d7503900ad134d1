"""What is known of an item before anybody played it, as weighted tokens hashed into a fixed number of buckets.

Words say most, their character n-grams carry over to spellings never seen (Bojanowski et al., 2017, "Enriching Word
Vectors with Subword Information"), and attributes are tokens of their own namespaces. Nothing is learnt or downloaded
here. Memory: about 100 bytes per token of the catalogue while features are made.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import polars as pl

from schemas.hashing import hash64

NUM_BUCKETS = 2**22
SUBWORD_LENGTHS = (3, 4)
ITEM_COLUMNS = ("item_id", "item_type", "title", "description", "genres", "artists", "languages")
"""What items are told apart by before anybody played them."""
_WORD = r"[\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True, slots=True)
class ItemFeatures:
    """Weighted tokens of items, in compressed rows.

    Attributes:
      starts: `(num_items + 1,) int64`; item i has the tokens from `starts[i]` up to `starts[i + 1]`.
      tokens: `(num_tokens,) int32`, buckets below `num_buckets`, ascending within an item.
      weights: `(num_tokens,) float32`; the words, the subwords and the attributes of an item each have length 1.
      num_buckets: buckets tokens are hashed into.
      sentences: `(num_items, sentence_dim) float32`, what a language model makes of their words; None without one.

    Raises:
      ValueError: the parts do not fit together.
    """

    starts: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray
    num_buckets: int
    sentences: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.tokens.shape != self.weights.shape or self.starts[-1] != len(self.tokens):
            raise ValueError(
                f"items end at {self.starts[-1]}, but there are {len(self.tokens)} tokens and {len(self.weights)} weights"
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, items: np.ndarray) -> "ItemFeatures":
        """Return some items, in the order given."""
        lengths = np.diff(self.starts)[items]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[items] - starts[:-1], lengths)
        sentences = None if self.sentences is None else self.sentences[items]
        return ItemFeatures(starts, self.tokens[at], self.weights[at], self.num_buckets, sentences)


def item_features(
    items: pl.DataFrame,
    num_buckets: int = NUM_BUCKETS,
    subword_lengths: tuple[int, ...] = SUBWORD_LENGTHS,
    sentences: np.ndarray | None = None,
) -> ItemFeatures:
    """Return the tokens of every item, in the order of the rows.

    Args:
      items: `title` and `description`, strings; `genres` and `languages`, lists of strings; `artists`, a list of structs
        with `artist_id`; `item_type`, a string. Each may be missing or null.
      num_buckets: buckets tokens are hashed into; the same number wherever features meet.
      subword_lengths: lengths of character n-grams in letters, the marks of a word's ends counted; empty for none.
      sentences: see `ItemFeatures`.
    """
    numbered = items.with_columns(item=pl.int_range(pl.len(), dtype=pl.Int64))
    words = _words(numbered)
    whole = words.with_columns(token="w:" + pl.col("token"))
    blocks = [whole, _subwords(words, subword_lengths), _attributes(numbered)]
    hashed = pl.concat([_weighted(block, num_buckets) for block in blocks])
    ordered = hashed.sort("item", "bucket", "weight")  # the order of a sum decides its last bit
    heads = np.flatnonzero(ordered.select(pl.struct("item", "bucket").rle_id().diff().fill_null(1)).to_series() != 0)
    summed = ordered[heads]
    starts = np.concatenate([[0], np.cumsum(np.bincount(summed["item"].to_numpy(), minlength=items.height))])
    weights = np.add.reduceat(ordered["weight"].to_numpy(), heads) if len(heads) else np.empty(0)
    buckets = summed["bucket"].to_numpy()
    return ItemFeatures(starts.astype(np.int64), buckets, weights.astype(np.float32), num_buckets, sentences)


def _words(items: pl.DataFrame) -> pl.DataFrame:
    """Return `item, token` of the words of titles and descriptions: lower case, without accents, each once per item."""
    texts = [
        items.select("item", text=pl.col(name).cast(pl.String))
        for name in ("title", "description")
        if name in items.columns
    ]
    if not texts:
        return pl.DataFrame(schema={"item": pl.Int64, "token": pl.String})
    plain = pl.col("text").str.normalize("NFKD").str.replace_all(r"\p{M}", "").str.to_lowercase()
    found = pl.concat(texts).select("item", token=plain.str.extract_all(_WORD)).explode("token").drop_nulls()
    return found.unique().sort("item", "token")


def _subwords(words: pl.DataFrame, lengths: tuple[int, ...]) -> pl.DataFrame:
    """Return `item, token` of the character n-grams of words, which are marked at both ends."""
    distinct = words["token"].unique().sort()
    pairs = [(word, f"s:{gram}") for word in distinct for gram in _grams(f"<{word}>", lengths)]
    grams = pl.DataFrame(pairs, schema={"token": pl.String, "gram": pl.String}, orient="row").unique()
    return words.join(grams, on="token").select("item", token="gram").unique().sort("item", "token")


def _grams(word: str, lengths: tuple[int, ...]) -> Iterator[str]:
    """Yield the n-grams of a word, without the word itself."""
    for length in lengths:
        yield from (word[at : at + length] for at in range(len(word) - length + 1) if length < len(word))


def _attributes(items: pl.DataFrame) -> pl.DataFrame:
    """Return `item, token` of genres, artists, languages and type, each in its own namespace."""
    lists = {
        "genres": ("g:", pl.col("genres")),
        "languages": ("l:", pl.col("languages")),
        "artists": ("a:", _artist_ids(items)),
        "item_type": ("t:", pl.concat_list("item_type") if "item_type" in items.columns else pl.lit(None)),
    }
    parts = [
        items.select("item", token=values).explode("token").drop_nulls().with_columns(token=prefix + pl.col("token"))
        for name, (prefix, values) in lists.items()
        if name in items.columns and items.schema[name] not in (pl.Null, pl.List(pl.Null))
    ]
    nothing = pl.DataFrame(schema={"item": pl.Int64, "token": pl.String})
    return pl.concat([nothing, *parts]).unique().sort("item", "token")


def _artist_ids(items: pl.DataFrame) -> pl.Expr:
    """Return the artists' ids, a list per item."""
    return pl.col("artists").list.eval(pl.element().struct.field("artist_id"))


def _weighted(block: pl.DataFrame, num_buckets: int) -> pl.DataFrame:
    """Return `item, bucket, weight`, the tokens of each item weighing the same and of length 1 together."""
    buckets = (hash64(block["token"].to_arrow()) % np.uint64(num_buckets)).astype(np.int32)
    weight = pl.len().over("item").cast(pl.Float64) ** -0.5
    return block.select("item", bucket=pl.Series(buckets, dtype=pl.Int32), weight=weight)
