"""Now Playing: what follows the most played seeds of every kind, in each market."""

import followers
import golden_sets
import golden_world
import polars as pl
import pytest
from golden_world import Raw

GOLDEN = golden_world.golden("now_playing")
NAMES = [golden["name"] for golden in GOLDEN["golden"]]
RULES = sorted({rule for golden in GOLDEN["golden"] for rule in golden["never"]} | set(GOLDEN["always"]["never"]))


@pytest.fixture(scope="module")
def items(small_road):
    return followers.catalogue(Raw(small_road.raw))


@pytest.fixture(scope="module")
def sets(small_road):
    every = golden_sets.committed(small_road.root, "candidate_set")
    return every.filter(pl.col("surface") == "now_playing", pl.col("record_key") != golden_sets.ANYBODY)


@pytest.fixture(scope="module")
def there(items, sets):
    return followers.offers(items, sets["market"].unique())


@pytest.fixture(scope="module")
def seeds(small_road, items, sets):
    events = Raw(small_road.raw).read("events")
    return {golden["name"]: followers.seeds_of(golden, items, sets, events) for golden in GOLDEN["golden"]}


@pytest.fixture(scope="module")
def rows(items, sets, there):
    candidate = pl.col("candidates").struct
    flat = sets.select("record_key", "market", "candidates").explode("candidates")
    told = flat.select("record_key", "market", *(candidate.field(name) for name in ("item_id", "position")))
    return followers.beside(told, items, there)


def of(rows: pl.DataFrame, seeds: pl.Series) -> pl.DataFrame:
    return rows.filter(pl.col("record_key").is_in(seeds.implode()))


def shown(rows: pl.DataFrame) -> list[tuple]:
    return rows.select("record_key", "market", "position", "item_id").sort(pl.all()).rows()


def test_every_golden_has_its_seeds(seeds):
    assert {name: len(own) for name, own in seeds.items()} == {one["name"]: one["seeds"] for one in GOLDEN["golden"]}
    assert sum(map(len, seeds.values())) == 48


@pytest.mark.parametrize(
    "golden", [one for one in GOLDEN["golden"] if "first" in one], ids=lambda golden: golden["name"]
)
def test_what_goes_on_stands_first(rows, seeds, golden):
    first = of(rows, seeds[golden["name"]]).filter(pl.col("position") == 0)
    assert shown(first.filter(~followers.FIRST[golden["first"]])) == []
    assert golden["first"] != "next part" or first["next_id"].count() >= golden["seeds"] // 2, "most of them go on"


@pytest.mark.parametrize("golden", GOLDEN["golden"], ids=NAMES)
def test_what_must_never_follow_does_not(rows, seeds, golden):
    own = of(rows, seeds[golden["name"]])
    for rule in (*GOLDEN["always"]["never"], *golden["never"]):
        assert shown(own.filter(followers.NEVER[rule])) == [], f"{golden['name']}: {rule}"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_finds_what_it_is_about(items, sets, there, seeds, rule):
    """Offered the whole catalogue, each rule finds something in it, and not everything."""
    name = next(one["name"] for one in GOLDEN["golden"] if rule in (*one["never"], *GOLDEN["always"]["never"]))
    own = sets.filter(pl.col("record_key").is_in(seeds[name].implode())).select("record_key", "market")
    every = own.join(items.select("item_id"), how="cross").with_columns(pl.lit(0).alias("position"))
    offered = pl.concat([every, every.head(1)])
    assert 0 < followers.beside(offered, items, there).filter(followers.NEVER[rule]).height < offered.height


@pytest.mark.parametrize(
    "golden", [one for one in GOLDEN["golden"] if one.get("first") == "next part"], ids=lambda one: one["name"]
)
def test_the_sets_of_other_seeds_would_fail(rows, seeds, golden):
    """Each seed is given the set of the next one of its kind: the part that goes on stands first no more."""
    own = of(rows, seeds[golden["name"]]).filter(pl.col("position") == 0)
    ids = seeds[golden["name"]].to_list()
    given = pl.col("record_key").replace_strict(ids, [*ids[1:], ids[0]])
    others = own.select("market", given, pl.col("item_id").alias("theirs"))
    swapped = own.join(others, on=["record_key", "market"]).with_columns(pl.col("theirs").alias("item_id"))
    assert swapped.filter(~followers.FIRST["next part"]).height >= swapped.height // 2
