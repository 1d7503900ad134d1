import polars as pl
import pytest
from toy_road import instant, item, policy, quota, shard, table

from schemas.models import EMBEDDING_DIM, Space, SpaceMismatch
from transforms.model_bundle import ModelBundle

SPACE = Space("encoder", "one", EMBEDDING_DIM, "cosine")
AT = instant(policy(quota("any")))
OTHER = Space("encoder", "two", EMBEDDING_DIM, "cosine")


def rows(contract: str, key: str, space: Space) -> pl.DataFrame:
    vector = [1.0] + [0.0] * (EMBEDDING_DIM - 1)
    return table(contract, [{key: one, "space_id": space.id, "made_from": 1, "vector": vector} for one in "ab"])


def test_vectors_are_read_in_the_order_of_their_ids(tmp_path):
    tables = {"item_embedding": rows("item_embedding", "item_id", SPACE), "item": table("item", [item("a")])}
    found = ModelBundle(shard(tmp_path, tables), SPACE, AT).items()
    assert found.ids.to_list() == ["a", "b"]
    assert found.index.vectors.shape == (2, EMBEDDING_DIM)
    assert found.reach.servable.tolist() == [True, False]


@pytest.mark.parametrize("what", ["item", "user"])
def test_rows_of_another_space_are_refused_where_they_arrive_and_both_are_named(tmp_path, what):
    tables = {f"{what}_embedding": rows(f"{what}_embedding", f"{what}_id", OTHER)}
    bundle = ModelBundle(shard(tmp_path, tables), SPACE, AT)
    with pytest.raises(SpaceMismatch, match=rf"2 rows of {what}_embedding are in the space {OTHER.id}.*{SPACE.id}"):
        bundle.items() if what == "item" else bundle.user_vectors(pl.Series(["a", "b"]))
