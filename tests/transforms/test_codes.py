"""Codes of items and records: what is held answers as what is coded for a block alone."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from test_blend import assert_same, random_block
from toy_road import instant, item, policy, proposals, quota, table, user

from schemas.hashing import hash64, mix64
from transforms import blend_kernel, blend_order, blend_rows, filter_kernel, id_index
from transforms.blend import blend
from transforms.blend_kernel import OVER
from transforms.codes import ItemCodes
from transforms.conformance import MemoryBundle
from transforms.facts import HeldCatalogue, user_facts
from transforms.reach import World
from transforms.recommend import warm_up


@pytest.mark.parametrize("seed", range(4))
def test_a_held_catalogue_gives_the_same_sets(seed):
    offered, told, surface, _ = random_block(seed)
    held = dataclasses.replace(told, catalogue=ItemCodes.of(told.items, told.gone))
    assert held.item_codes is held.catalogue
    assert_same(blend(offered, told, surface, instant(surface)), blend(offered, held, surface, instant(surface)))


def test_codes_of_other_items_or_tombstones_are_not_used():
    _, told, _, _ = random_block(0)
    held = dataclasses.replace(told, catalogue=ItemCodes.of(told.items, told.gone))
    for other in ({"items": told.items.head(3)}, {"gone": told.items["item_id"].head(1)}):
        changed = dataclasses.replace(held, **other)
        assert changed.item_codes is not held.catalogue
        assert changed.item_codes.items is changed.items


def test_hashes_of_items_are_made_once_and_the_same():
    _, told, _, _ = random_block(1)
    codes = told.item_codes
    some = np.array([3, 1, 3])
    expected = hash64(told.items["item_id"].gather(some).to_arrow())
    np.testing.assert_array_equal(codes.hash64(some), expected)
    assert (codes.hashes != 0).sum() == 2
    np.testing.assert_array_equal(codes.hash64(some), expected)


def test_the_compiled_hash_is_the_other_one():
    numbers = np.random.default_rng(0).integers(0, 2**63, (2, 100)).astype(np.uint64)
    compiled = [blend_kernel._mix64(left, right) for left, right in numbers.T]
    np.testing.assert_array_equal(np.array(compiled, np.uint64), mix64(*numbers))


def test_slots_fit_the_radix_sort():
    widest = OVER | (1 << blend_kernel.TIE_BITS) - 1
    assert widest < 1 << blend_kernel._KEY_BITS


def test_a_source_without_a_quota_is_refused():
    offered, told, surface, _ = random_block(0)
    strange = offered.head(1).with_columns(pl.lit("elsewhere").alias("source_id"))
    with pytest.raises(
        ValueError, match=r"expected proposals of near, own, chart, came 'elsewhere'; give the source a quota"
    ):
        blend(pl.concat([offered, strange]), told, surface, instant(surface))


def test_all_that_blends_is_compiled_once_and_by_the_warm_up():
    """What is compiled for other types at the first record would make it wait."""
    outermost = (
        blend_kernel._settle_all,
        blend_order._interleave,
        blend_rows._spread,
        filter_kernel._judge_all,
        filter_kernel._until_all,
        filter_kernel._concern_all,
        id_index._fill,
        id_index._find_all,
    )
    surface = policy(quota("t"), quota("pool", 1, 1, 1), explore="pool")
    warm_up(surface, instant(surface))
    assert [len(function.signatures) for function in outermost] == [1] * len(outermost)
    for seed in range(3):
        offered, told, other, _ = random_block(seed)
        blend(offered, told, other, instant(other), np.full(offered.height, 0.1))
    found = [len(function.signatures) for function in outermost]
    assert found == [1] * len(outermost)


ITEMS = [
    item("a", "x", title="Rain"), item("a-live", "x", title="Rain (Live)"),
    item("a-live-too", "x", canonical_id="a-live", title="Regen"),
    item("gone"), item("e1", item_type="episode", show_id="s", is_serial=True, episode_no=1),
    item("e2", item_type="episode", show_id="s", is_serial=True, episode_no=2),
]  # fmt: skip


def test_facts_of_a_held_catalogue_say_the_same_of_what_was_proposed():
    surface = policy(quota("near"), quota("own"))
    when, world = instant(surface), World(["SE"], pl.Series(["gone"]))
    bundle = MemoryBundle({"item": table("item", ITEMS)})
    users = table("user", [user("u1")]).with_columns(
        positives=pl.lit(None, table("history", []).schema["positives"]), skips=pl.lit(None, table("history", []).schema["skips"]),
        seen=pl.lit(False), personalization_opt_out=pl.lit(False),
    )  # fmt: skip
    offered = proposals({"near": ["e2", "a", "e1", "nowhere", "a-live-too"], "own": ["gone", "z", "a-live"]})
    alone = user_facts(users, offered, world, bundle, surface, when)
    held = user_facts(users, offered, world, bundle, surface, when, HeldCatalogue.of(bundle, world, when))
    assert held.item_codes is held.catalogue
    found = blend(offered, held, surface, when)
    assert found.candidates["item_id"].to_list() == ["a", "e1"]
    assert found.removed.filter(pl.col("rule") == "duplicate")["item_id"].to_list() == ["a-live", "a-live-too"]
    assert_same(blend(offered, alone, surface, when), found)
