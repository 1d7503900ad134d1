import dataclasses
from collections.abc import Iterable

import faiss
import numpy as np
import polars as pl
import pytest
from toy_road import instant, item, policy, quota, shard, table

from schemas.models import EMBEDDING_DIM, Space, SpaceMismatch
from transforms.index.build import assemble, encode, flat, train
from transforms.index.files import IndexMismatch, codes_name, ids_digest, vectors_name
from transforms.index.ivf import IvfIndex
from transforms.model_bundle import ModelBundle
from transforms.shards import Shard

SPACE = Space("encoder", "one", EMBEDDING_DIM, "cosine")
AT = instant(policy(quota("any")))
OTHER = Space("encoder", "two", EMBEDDING_DIM, "cosine")


def rows(contract: str, key: str, space: Space, ids: Iterable[str] = "ab") -> pl.DataFrame:
    vector = [1.0] + [0.0] * (EMBEDDING_DIM - 1)
    return table(contract, [{key: one, "space_id": space.id, "made_from": 1, "vector": vector} for one in ids])


def test_vectors_are_read_in_the_order_of_their_ids(tmp_path):
    tables = {"item_embedding": rows("item_embedding", "item_id", SPACE), "item": table("item", [item("a")])}
    found = ModelBundle(shard(tmp_path, tables), SPACE, AT, "code").items()
    assert found.ids.to_list() == ["a", "b"]
    assert found.index.vectors.shape == (2, EMBEDDING_DIM)
    assert found.reach.servable.tolist() == [True, False]


def test_what_a_market_plays_is_read_once_from_the_files_of_the_bundle(tmp_path):
    turned = [0.0, 1.0] + [0.0] * (EMBEDDING_DIM - 2)
    second = table("item_embedding", [{"item_id": "b", "space_id": SPACE.id, "made_from": 1, "vector": turned}])
    vectors = pl.concat([rows("item_embedding", "item_id", SPACE, "a"), second])
    charts = [
        {"market": market, "tier": "*", "item_type": "track", "item_id": one, "weight": weight, "rank": 0}
        for market, one, weight in [("SE", "a", 3.0), ("SE", "b", 4.0), ("NO", "b", 1.0)]
    ]
    items = [item("a", languages=["sv"]), item("b", languages=["en"])]
    tables = {"item_embedding": vectors, "item": table("item", items), "popularity": table("popularity", charts)}
    bundle = ModelBundle(shard(tmp_path, tables), SPACE, AT, "code")
    found = bundle.market_profiles()
    assert found.of_listener("SE", None)[:2].tolist() == pytest.approx([0.6, 0.8])
    assert found.of_listener("SE", ["sv"])[:2].tolist() == [1.0, 0.0]
    assert bundle.market_profiles() is found
    other = dataclasses.replace(bundle, space=OTHER)
    with pytest.raises(SpaceMismatch, match="2 rows of item_embedding are in the space"):
        other.market_profiles()


def indexed(tmp_path, ids: list[str], code_version: str) -> ModelBundle:
    """Return a bundle that was given an index of one segment, of the items a and b, with a catalogue of some items."""
    vectors = np.eye(2, EMBEDDING_DIM, dtype=np.float32)
    trained = train(vectors, 1, 7)
    made = {codes_name(0): assemble(trained, *encode(trained, vectors)), vectors_name(0): flat(vectors)}
    for name, one in made.items():
        faiss.write_index(one, str(tmp_path / name))
    record = {
        "segment": 0, "num_rows": 2, "space_id": SPACE.id, "metric": SPACE.metric, "factory": "any",
        "ids_digest": ids_digest(pl.Series(["a", "b"])), "bytes": 1, "code_version": "code",
    }  # fmt: skip
    tables = {
        "item_embedding": rows("item_embedding", "item_id", SPACE, ids), "item": table("item", [item("a")]),
        "index": table("index", [record]),
    }  # fmt: skip
    given = shard(tmp_path, tables)
    inputs = {**given.task.inputs, "index": ("index.parquet", *made)}
    return ModelBundle(Shard(dataclasses.replace(given.task, inputs=inputs), given.store), SPACE, AT, code_version)


def test_an_index_is_searched_through_where_there_is_one(tmp_path):
    items = indexed(tmp_path, ["a", "b"], "code").items()
    assert isinstance(items.index, IvfIndex)
    found = items.index.search(np.eye(2, EMBEDDING_DIM, dtype=np.float32)[1:], 1)
    assert items.ids[int(found.rows[0, 0])] == "b"
    assert items.reach.servable.tolist() == [True, False]


@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [(["a", "c"], "code", "the index has ids"), (["a", "b"], "new", "has code version code, .* with code version new")],
)
def test_an_index_of_other_items_or_code_is_refused(tmp_path, ids, code, message):
    with pytest.raises(IndexMismatch, match=message):
        indexed(tmp_path, ids, code).items()


@pytest.mark.parametrize("what", ["item", "user"])
def test_rows_of_another_space_are_refused_where_they_arrive_and_both_are_named(tmp_path, what):
    tables = {f"{what}_embedding": rows(f"{what}_embedding", f"{what}_id", OTHER)}
    bundle = ModelBundle(shard(tmp_path, tables), SPACE, AT, "code")
    with pytest.raises(SpaceMismatch, match=rf"2 rows of {what}_embedding are in the space {OTHER.id}.*{SPACE.id}"):
        bundle.items() if what == "item" else bundle.user_vectors(pl.Series(["a", "b"]))
