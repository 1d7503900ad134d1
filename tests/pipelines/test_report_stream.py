from pipelines.report_stream import render_stream
from pipelines.stream_validation import verdict


def test_the_page_says_what_is_to_be_looked_at_first():
    good = verdict("029000000-0000", "passed", "v", sets=1_200, checks=56, bundles=["b1"])
    bad = verdict(
        "029000001-0001", "failed", "v", severity="critical", sets=3, checks=56, failed=["market:max_length"],
        bundles=["b1", "b2"], detail="<3 of them>",
    )  # fmt: skip
    missing = verdict("029000002-0000", "unchecked", "v", severity="critical", detail="the disk was full")
    page = render_stream([good, bad, missing, bad])
    assert "2 minutes to look at" in page
    assert "1,203" in page
    assert "market:max_length" in page
    assert "&lt;3 of them&gt;" in page
    assert "part 2" in page
    assert page.index("To look at") < page.index("the disk was full") < page.index("Every minute")
    assert "55 of 56" in page


def test_a_good_day_and_an_empty_one():
    good = verdict("029000000-0000", "passed", "v", sets=1_200, checks=56)
    assert "Every check of every minute passed." in render_stream([good])
    assert "To look at" not in render_stream([good])
    assert "No set was published yet." in render_stream([])
