"""What a language model makes of the words of an item: vectors of a sentence-transformers model, read from a folder.

Nothing is downloaded. The folder must be at the same path wherever items are embedded, in the image of the workers for
example. Words the catalogue has never had mean something to it, which the subword tokens of `text` only spell.
Memory: the model, once per process (90 MB for six layers), and `4 * dim` bytes per item of a call.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

SENTENCES_AT_ONCE, READ_AT_ONCE = 64, 1_024
TEXT_MODEL = "text_model"
"""Beside weights: the digest of what they were trained with."""
_WEIGHTS = ("*.safetensors", "tokenizer.json", "modules.json")


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageModel:
    """A folder, and the digest of the weights and words in it: what was learnt with one is of no use with another."""

    path: str
    digest: str

    @classmethod
    def at(cls, path: str) -> "LanguageModel":
        """Look at a folder.

        Raises:
          ValueError: it holds no such model, or what reads one is not installed.
        """
        if not find_spec("sentence_transformers"):
            raise ValueError(
                "a text model is asked for, but sentence-transformers is not installed: pip install -e '.[text]'"
            )
        files = sorted(file for pattern in _WEIGHTS for file in Path(path).rglob(pattern))
        if not any(file.suffix == ".safetensors" for file in files) or not Path(path, "modules.json").is_file():
            raise ValueError(
                f"{path} is no folder of a sentence-transformers model: it lacks modules.json or *.safetensors"
            )
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as body:
                digest.update(hashlib.file_digest(body, "sha256").digest())
        return cls(path, digest.hexdigest()[:16])

    def encode(self, items: pl.DataFrame) -> np.ndarray:
        """Return the vectors of items, `(num_items, dim) float32` of length 1; the last bit may depend on the others."""
        sentences = item_sentences(items)
        vectors: np.ndarray = _load(self.path).encode(
            sentences or [""], batch_size=SENTENCES_AT_ONCE, convert_to_numpy=True, normalize_embeddings=True,
            show_progress_bar=False,
        )  # fmt: skip
        return vectors[: len(sentences)].astype(np.float32)

    def read(self, items: pl.DataFrame, say: Callable[[str], None]) -> np.ndarray:
        """Return the vectors of a whole catalogue as `encode` does, telling how far it is."""
        found = []
        for first in range(0, max(items.height, 1), READ_AT_ONCE):
            say(f"the text model reads items, {first:,} of {items.height:,}")
            found.append(self.encode(items[first : first + READ_AT_ONCE]))
        return np.concatenate(found)


def digest_of(model: LanguageModel | None) -> str:
    """Return what tells models apart; empty without one."""
    return model.digest if model else ""


@functools.lru_cache(maxsize=1)
def _load(path: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, device="cpu", local_files_only=True)


def item_sentences(items: pl.DataFrame) -> list[str]:
    """Return what an item says of itself as text: title, artists, genres and description; see `text.item_features`."""
    parts = []
    for name in ("title", "artists", "genres", "description"):
        if name not in items.columns or items.schema[name] in (pl.Null, pl.List(pl.Null)):
            continue
        listed = pl.col("artists").list.eval(pl.element().struct.field("name")) if name == "artists" else pl.col(name)
        parts.append(listed if name in ("title", "description") else listed.list.drop_nulls().list.join(", "))
    joined = pl.concat_str([part.fill_null("") for part in parts], separator=". ") if parts else pl.lit("")
    return items.select(joined.str.replace_all(r"(\. )+", ". ").str.strip_chars(". ").alias("text"))["text"].to_list()
