"""Works: which recordings are of one work, told by title and first artist.

    title, folded -> parts, at brackets and dashes -> without parts that only name a version -> with type and artist the work

"Árbol", "ARBOL (feat. Ana)", "Árbol - Live at Home, 1999" and "Árbol [Deluxe Edition]" by one artist are one work. Apart stay
what another artist sings, a video and its track, remixes, parts ("Pt. 2"), and what has a word more. Two tracks of one artist with the
same title, such as "Intro", are one work, whatever they sound like.
"""

import polars as pl

from transforms.tallies import first_artist

MUSIC = ("track", "video")
_SAME_LETTER = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ı": "i",
    "&": " and ",
}
_MARKS, _APOSTROPHES, _PUNCTUATION = r"[\u0300-\u036f]", r"['`\u2018\u2019\u02bc]", r"[\p{P}\s]+"
_BREAKS = r"[(){}\[\]]|\s[-\u2013\u2014]\s"
_GUESTS = r"([^\d|]) (?:feat\.|ft\.|featuring) [^|]+"
_VERSION = (
    "live|acoustic|unplugged|demo|instrumental|sessions?|re ?master(?:ed|ing)?|re ?recorded|mono|stereo|edit|ver|version|edition"
    "|deluxe|expanded|explicit|clean|video|audio|visuali[sz]er"
)
_BESIDE = (
    r"\d+(?:st|nd|rd|th)?|the|full|short|single|album|radio|original|extended|digital(?:ly)?|super|special|anniversary|bonus"
    "|track|official|music|lyrics?|studio|mix|recording|alternate|take"
)
_MARKER = (
    rf"\| ?(?:(?:(?:{_BESIDE}) )*(?:{_VERSION})(?: (?:{_BESIDE}|{_VERSION}))*"
    r"|(?:(?:live|acoustic|unplugged|recorded) )+(?:at|in|from|on) [^|]+"
    r"|[^|]+ (?:ver|version|edition|remaster(?:ed)?|sessions?)"
    r"|(?:feat|ft|featuring) [^|]+"
    r"|bonus track|(?:original|extended|radio) mix) ?(?:\||$)"
)
"""A part of a title that only names a version, between bars, in lower case and without punctuation; never the first part."""


def title_of_work() -> pl.Expr:
    """Return column `title` without what names a version, folded: no case, accent or punctuation; null where nothing is left."""
    letters = pl.col("title").str.normalize("NFKD").str.replace_all(_MARKS, "").str.to_lowercase()
    parts = letters.str.replace_all(_BREAKS, "||").str.replace_all(_GUESTS, "$1")
    words = parts.str.replace_many(_SAME_LETTER).str.replace_all(_APOSTROPHES, "").str.replace_all(_PUNCTUATION, " ")
    title = words.str.replace_all(_MARKER, "|").str.replace_all(r"[ |]+", " ").str.strip_chars()
    return pl.when(title != "").then(title)


def work() -> pl.Expr:
    """Return what is equal for items of one work, their canonical item where it cannot be told; `work`.

    It rests on the item's own row alone: a block, a held catalogue and an audit say the same.
    """
    music = pl.when(pl.col("item_type").is_in(MUSIC)).then("item_type")
    named = pl.concat_str(music, first_artist(), title_of_work(), separator="\x1f")
    return pl.coalesce(named, "canonical\x1f" + pl.col("canonical_id")).alias("work")
