import dataclasses

import numpy as np
import pytest

from transforms.embed.fuse import Fusion, FusionSettings, fit_blend, fit_fusion
from transforms.embed.interactions import Interactions, from_lists
from transforms.embed.pool import Pool, join_pools

CANDIDATES, SETTINGS = 12, FusionSettings(depth=8, trees=40, blend_contexts=100)
NAMES = ("a.share", "a.rank", "b.share", "b.rank", "other")


def planted(contexts: int, seed: int, *, crossed: bool) -> tuple[Pool, Interactions]:
    """Return a pool whose targets have the largest a + 2 b, or `crossed`: where `other` is above a half, least of a."""
    draw = np.random.default_rng(seed)
    shares = draw.random((contexts, CANDIDATES, 3)).astype(np.float32)
    a, b, other = shares[..., 0], shares[..., 1], shares[..., 2]
    wanted = np.where(other > 0.5, 2 - a, a) if crossed else a + 2 * b
    places = [np.argsort(np.argsort(-s, axis=1), axis=1) for s in (a, b)]
    columns = np.stack([a, np.log1p(places[0]), b, np.log1p(places[1]), other], axis=-1)
    candidates = from_lists([list(range(CANDIDATES))] * contexts, CANDIDATES)
    pool = Pool(candidates, columns.reshape(-1, len(NAMES)).astype(np.float32), NAMES)
    return pool, from_lists(wanted.argmax(axis=1)[:, None].tolist(), CANDIDATES)


def first_found(pool: Pool, scores: np.ndarray, targets: Interactions) -> float:
    return float((pool.ranking(scores, 1)[:, 0] == targets.items).mean())


def blocks(*, crossed: bool) -> list[tuple[Pool, Interactions]]:
    return [planted(150, seed, crossed=crossed) for seed in range(8)]


def test_the_blend_finds_the_planted_weights():
    pool, targets = planted(400, 1, crossed=False)
    blend = fit_blend(pool, targets)
    later, wanted = planted(200, 2, crossed=False)
    assert first_found(later, blend.score(later), wanted) > 0.85
    assert first_found(later, later.features[:, 2], wanted) < 0.7


def test_targets_outside_the_pool_say_nothing():
    pool, targets = planted(100, 1, crossed=False)
    strangers = from_lists([[CANDIDATES]] * 100, CANDIDATES + 1)
    both = Interactions(
        np.arange(201), np.concatenate([targets.items, strangers.items]), np.ones(200, np.float32), CANDIDATES + 1
    )
    assert fit_blend(join_pools([pool, pool]), both).weights == pytest.approx(
        fit_blend(pool, targets).weights, abs=0.05
    )


def test_where_trees_rank_better_they_order_the_best():
    fusion = fit_fusion(blocks(crossed=True), SETTINGS)
    later, wanted = planted(200, 20, crossed=True)
    assert fusion.trees is not None
    assert fusion.figures["trees"] > fusion.figures["blend"]
    assert first_found(later, fusion.score(later), wanted) > first_found(later, fusion.blend.score(later), wanted) + 0.2


def test_what_the_trees_did_not_order_comes_after_in_the_order_of_the_blend():
    fusion = fit_fusion(blocks(crossed=True), SETTINGS)
    later, _ = planted(50, 20, crossed=True)
    by_all, by_blend = later.ranking(fusion.score(later), 12), later.ranking(fusion.blend.score(later), 12)
    np.testing.assert_array_equal(by_all[:, 8:], by_blend[:, 8:])
    np.testing.assert_array_equal(np.sort(by_all[:, :8]), np.sort(by_blend[:, :8]))


def test_where_the_blend_ranks_better_there_are_no_trees():
    fusion = fit_fusion(blocks(crossed=False), dataclasses.replace(SETTINGS, trees=1))
    assert fusion.trees is None
    assert fusion.figures["trees"] <= fusion.figures["blend"]


def test_several_targets_of_a_context_are_all_wanted():
    pool, _ = planted(300, 1, crossed=False)
    order = np.argsort(-pool.features[:, 2].reshape(-1, CANDIDATES), axis=1)
    targets = from_lists(order[:, :3].tolist(), CANDIDATES)
    top = pool.ranking(fit_blend(pool, targets).score(pool), 3)
    assert (np.sort(top) == np.sort(order[:, :3])).mean() > 0.9


def test_bytes_give_the_fusion_back_and_the_same_seed_the_same_bytes():
    fusion, again = (fit_fusion(blocks(crossed=True), SETTINGS, seed=5) for _ in range(2))
    assert fusion.to_bytes() == again.to_bytes()
    later, _ = planted(50, 20, crossed=True)
    np.testing.assert_array_equal(Fusion.from_bytes(fusion.to_bytes()).score(later), fusion.score(later))


def test_a_pool_of_other_features_is_refused():
    fusion = fit_fusion(blocks(crossed=True), SETTINGS)
    later, _ = planted(5, 20, crossed=True)
    with pytest.raises(ValueError, match=r"features a\.share, a\.rank, .*, other, asked with a\.share, .*, b\.rank$"):
        fusion.score(Pool(later.candidates, later.features[:, :4], later.names[:4]))
    with pytest.raises(ValueError, match=r"scores a\.share, .*, b\.rank, asked with a\.share, a\.share\.log, a\.rank$"):
        fusion.score(Pool(later.candidates, later.features[:, :2], later.names[:2]))


def test_without_trees_a_pool_may_have_the_scores_alone():
    fusion = fit_fusion(blocks(crossed=False), dataclasses.replace(SETTINGS, trees=1))
    later, _ = planted(5, 20, crossed=False)
    few = Pool(later.candidates, later.features[:, :4], later.names[:4])
    np.testing.assert_array_equal(fusion.score(few), fusion.score(later))


def test_a_fusion_of_no_hits_keeps_the_blend():
    pool, _ = planted(20, 1, crossed=False)
    fusion = fit_fusion([(pool, from_lists([[]] * 20, CANDIDATES))], SETTINGS)
    assert fusion.trees is None
    assert np.isfinite(fusion.score(pool)).all()
