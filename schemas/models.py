"""What training and embedding write: the vocabulary, the record of a training, vectors and the space they are in."""

import dataclasses
import hashlib
import json

import pyarrow as pa

from schemas.contract import Contract, column
from schemas.inputs import ID, STRINGS, given
from schemas.rules import Between, OneOf, Required

METRICS = ("inner_product", "cosine")
_PLAYED = ("history.positives",)


class SpaceMismatch(ValueError):
    """Vectors of two spaces were about to meet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What makes two vectors comparable. Every set of vectors and every index carries one.

    Attributes:
      family: model family, `encoder` for example.
      version: digest of what the model was fitted on and with.
      dim: length of a vector. `metric`: one of `METRICS`.
    """

    family: str
    version: str
    dim: int
    metric: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS or self.dim < 1:
            raise ValueError(
                f"a space has one of the metrics {METRICS} and a dimension, came {self.metric}, {self.dim}"
            )

    @property
    def id(self) -> str:
        """Digest of all of it; equal ids, comparable vectors."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.family} {self.version} ({self.dim} dimensions, {self.metric})"


def demand_same_space(ours: Space, theirs: Space, what: str) -> None:
    """Refuse vectors of another space.

    Raises:
      SpaceMismatch: names both.
    """
    if ours != theirs:
        raise SpaceMismatch(
            f"{what} is in the space {theirs}, but is asked for in the space {ours}: embed both with one model"
        )


VOCABULARY = Contract(
    name="vocabulary",
    version="1.0.0",
    owner="segue-train",
    description="The items models know by number: what may be recommended, the most listened to first where there is a limit.",
    key=("item_id",),
    shard_by=None,
    schema=pa.schema(
        [
            column("item_id", pa.string(), "Item.", rules=ID, derived_from=("item.item_id",)),
            column("number", pa.int32(), "Its number: its place among the ids in order.", rules=(Between(0, 2**31 - 1),),
                   derived_from=("?item.item_id",)),
            column("positives", pa.int64(), "Positives in the histories.", rules=(Between(0, 1e15),),
                   derived_from=_PLAYED),
        ]
    ),
    rows_from=("item.rec_eligible", "item.deleted_at", "history.positives"),
)  # fmt: skip

TRAINING = Contract(
    name="training",
    version="1.0.0",
    owner="segue-train",
    description="The record of one training: losses and validation metrics by epoch, and figures of the finished model. "
    "What a fit makes of its inputs has no lineage by column: every figure rests on every one of them.",
    key=("family", "epoch", "name"),
    shard_by=None,
    schema=pa.schema(
        [
            column("family", pa.string(), "Model family.", rules=(Required(),)),
            column("epoch", pa.int32(), "Epoch the figure is of; -1 for the finished model.", rules=(Between(-1, 1e6),)),
            column("name", pa.string(), "Figure: loss, recall@20, recall@20[type=track] and so on.", rules=(Required(),)),
            column("value", pa.float64(), "Its value.", rules=(Between(-1e15, 1e15),)),
        ]
    ),
)  # fmt: skip

_x = given("example")
EXAMPLE = Contract(
    name="example",
    version="1.0.0",
    owner="segue-train",
    description="What somebody liked after a context: what rankings are judged on and fusions are fitted on. Of a later "
    "time than all that the ranking models learned from; whoever writes the examples sees to that.",
    key=("example_id",),
    shard_by=None,
    schema=pa.schema(
        [
            _x("example_id", pa.string(), "Example; those of one key follow each other in its order.", *ID, nullable=False),
            _x("key", pa.string(), "User or session: no split has examples of one on both sides.", *ID, nullable=False),
            _x("context", STRINGS, "Items so far, oldest first; null: the history of the user `key`."),
            _x("target", STRINGS, "Items liked afterwards; unknown ones count as missed.", Required()),
        ]
    ),
)  # fmt: skip

EMBEDDING_DIM = 64
_VECTOR = pa.list_(pa.float32(), EMBEDDING_DIM)
_HEARD = ("history.positives", "history.skips")
_CONTENT = ("item.title", "item.description", "item.genres", "item.artists", "item.languages", "item.item_type")


def _space() -> pa.Field:
    return column("space_id", pa.string(), "Space of the vector; vectors of two spaces never meet.", rules=ID)  # fmt: skip


ITEM_EMBEDDING = Contract(
    name="item_embedding",
    version="1.0.0",
    owner="segue-embed",
    description="One vector per item that may be recommended, of length 1.",
    key=("item_id",),
    shard_by="item_id",
    schema=pa.schema(
        [
            column("item_id", pa.string(), "Item.", rules=ID, derived_from=("item.item_id",)),
            _space(),
            column("made_from", pa.int64(), "Hash of what the vector was computed from.", derived_from=_CONTENT),
            column("vector", _VECTOR, "The vector.", derived_from=(*_CONTENT, "?vocabulary.item_id")),
        ]
    ),
    rows_from=("item.rec_eligible", "item.deleted_at"),
)  # fmt: skip

USER_EMBEDDING = Contract(
    name="user_embedding",
    version="1.0.0",
    owner="segue-embed",
    description="One vector per user with a history, of length 1.",
    key=("user_id",),
    shard_by="user_id",
    schema=pa.schema(
        [
            column("user_id", pa.string(), "User.", rules=ID, derived_from=("history.user_id",)),
            _space(),
            column("made_from", pa.int64(), "Hash of what the vector was computed from.",
                   derived_from=_HEARD),
            column("vector", _VECTOR, "The vector.", derived_from=(*_HEARD, "?vocabulary.item_id")),
        ]
    ),
    rows_from=("history.positives", "vocabulary.item_id"),
)  # fmt: skip

INDEX = Contract(
    name="index",
    version="1.0.0",
    owner="segue-index",
    description="One row per segment of an index: a run of the sorted ids of item vectors, whose lists of codes and vectors "
    "are the artifacts `<segment>.codes` and `<segment>.vectors`. They are opened by who agrees with the row, see "
    "`transforms.index.files`. A row describes files: it has no lineage by column.",
    key=("segment",),
    shard_by=None,
    schema=pa.schema(
        [
            column("segment", pa.int32(), "Its place among the segments.", rules=(Between(0, 2**31 - 1),)),
            column("num_rows", pa.int64(), "Vectors in it.", rules=(Between(1, 2**31 - 1),)),
            _space(),
            column("metric", pa.string(), "Metric of the space.", rules=(OneOf(METRICS),)),
            column("factory", pa.string(), "What FAISS calls such an index.", rules=(Required(),)),
            column("ids_digest", pa.string(), "Digest of the ids in order.", rules=(Required(),)),
            column("bytes", pa.int64(), "Size of its files.", unit="bytes", rules=(Between(1, 1e15),)),
            column("code_version", pa.string(), "The code that built it.", rules=(Required(),)),
        ]
    ),
)  # fmt: skip
