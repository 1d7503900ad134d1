"""Sets lose what is promoted for campaigns that are over, and nothing else of them changes."""

import pyarrow as pa
from toy_stream import sets

from schemas.candidates import CANDIDATE_SET
from transforms.stream.campaigns import without_campaigns

SOURCE = {
    "source_id": "home.promoted", "signal_type": "campaign", "source_rank": 0, "raw_score": 0.0, "score_kind": "price",
    "calibrated_score": 0.0,
}  # fmt: skip


def promoting(**campaigns: list[str | None]) -> pa.Table:
    """Return a set per user whose candidates are promoted for these campaigns; None for nobody's."""
    rows = sets(*sorted(campaigns)).to_pylist()
    for row in rows:
        (one,), named = row["candidates"], campaigns[row["user_id"]]
        row["candidates"] = [
            one | {
                "item_id": f"{n}", "canonical_id": f"{n}", "position": n, "sources": [SOURCE] * (n + 1),
                "promo": campaign and {"campaign_id": campaign},
            }
            for n, campaign in enumerate(named)
        ]  # fmt: skip
        row["counts"] = {"in": 10, "filtered_by_rule": [{"rule": "market", "count": 4}], "out": len(named)}
    return pa.Table.from_pylist(rows, CANDIDATE_SET.schema)


def test_only_what_names_a_campaign_that_is_over_is_left_out():
    before = promoting(ann=[None, "a", "b", "a"], bob=["b", None], cyd=[None])
    after = without_campaigns(before, {"a", "c"})
    ann, *others = after.to_pylist()
    assert others == before.to_pylist()[1:]
    assert [one["item_id"] for one in ann["candidates"]] == ["0", "2"]
    assert [one["position"] for one in ann["candidates"]] == [0, 1]
    rules = [{"rule": "market", "count": 4}, {"rule": "campaign", "count": 2 + 4}]
    assert ann["counts"] == {"in": 10, "filtered_by_rule": rules, "out": 2}
    unchanged = {"candidates", "counts"}
    assert {k: v for k, v in ann.items() if k not in unchanged} == {
        k: v for k, v in before.to_pylist()[0].items() if k not in unchanged
    }


def test_sets_that_promote_nothing_that_is_over_are_the_same_table():
    before = promoting(ann=[None, "a"], bob=["b"])
    assert without_campaigns(before, ()) is before
    assert without_campaigns(before, {"c"}) is before
    assert without_campaigns(before.slice(0, 0), {"a"}).num_rows == 0
