"""Works: what is one work by title and first artist, and what is not."""

import polars as pl
import pytest
from toy_road import item, table

from transforms.works import title_of_work, work

ONE_WORK = (
    "Árbol de Luz", "ARBOL DE LUZ", "Árbol de Luz!", "Árbol de Luz (Live)", "Árbol de Luz - Live at Home, 1999",
    "Árbol de Luz (Live '94) [Mono]",
    "Árbol de Luz - 2011 Remaster", "Árbol de Luz – Remastered 2009", "Árbol de Luz [Deluxe Edition]", "Árbol de Luz feat. Ana",
    "Árbol de Luz (ft. Ana & Bo) - Radio Edit", "Árbol de Luz (Ana’s Version)", "Árbol de Luz - Acoustic",
    "Árbol de Luz (Original Mix)",
    "Árbol de Luz（Re-Recorded）", "Árbol de Luz | Official Video", "Árbol de Luz - 20th Anniversary Edition - Bonus Track",
)  # fmt: skip
APART = (
    "Árbol", "Luz", "Árbol de Luz Pt. 2", "Árbol de Luz (Part 1) - Live", "Árbol de Luz - Part 2 - Live",
    "Árbol de Luz (Bo Remix)",
    "Árbol de Luz (1999)", "Live and Let Die", "Live Forever", "Live", "A Feat of Strength", "A", "6 ft. Under", "6",
    "Clean", "1979",
    "Suite No. 1, 2. Air", "Suite No. 12, Air", "バス", "ハス", "+", "÷",
)  # fmt: skip


def works(*items: dict) -> list[str]:
    return table("item", items).select(work())["work"].to_list()


def test_versions_of_a_title_are_one_work():
    assert set(works(*(item(f"i{n}", "a", title=title) for n, title in enumerate(ONE_WORK)))) == {
        "track\x1fa\x1farbol de luz"
    }


def test_titles_that_share_words_are_works_of_their_own():
    found = works(*(item(f"i{n}", "a", title=title) for n, title in enumerate((ONE_WORK[0], *APART))))
    assert len(set(found)) == 1 + len(APART)


def test_the_same_by_another_artist_is_another_work():
    both = {"title": "Árbol", "artists": [{"artist_id": one, "name": None, "role": None} for one in "ab"]}
    first, guest, cover = works(item("1", "a", title="Árbol"), item("2", **both), item("3", "b", title="Árbol (Live)"))
    assert first == guest != cover


def test_a_video_is_another_work_than_its_track():
    track, video, live = works(
        item("1", "a", title="Árbol"), item("2", "a", title="Árbol (Official Video)", item_type="video"),
        item("3", "a", title="Árbol (Live)", item_type="video"),
    )  # fmt: skip
    assert track != video == live


@pytest.mark.parametrize("kind", ["episode", "chapter", "audiobook", "show", "artist"])
def test_only_music_has_works(kind):
    items = [item(one, "a", title="Live", item_type=kind, canonical_id=one) for one in ("1", "2")]
    assert works(*items) == ["canonical\x1f1", "canonical\x1f2"]


@pytest.mark.parametrize(
    "missing", [{"title": None}, {"title": ""}, {"title": "?!"}, {"title": "(Live)"}, {"artists": None}]
)
def test_where_there_is_no_title_or_artist_it_is_the_canonical_item(missing):
    items = [
        item(one, "a", canonical_id=canonical) | missing for one, canonical in (("1", "c"), ("2", "c"), ("3", "d"))
    ]
    assert works(*items) == ["canonical\x1fc", "canonical\x1fc", "canonical\x1fd"]


def test_letters_are_folded_alike():
    titles = pl.DataFrame({"title": ["STRASSE & Łódź", "Straße and Lodz", "Don’t", "Dont", "Ça", None]})
    assert titles.select(title_of_work())["title"].to_list() == ["strasse and lodz"] * 2 + ["dont"] * 2 + ["ca", None]
