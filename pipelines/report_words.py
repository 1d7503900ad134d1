"""The words of the report page: what people call stages, sources, rules, reasons and levels.

A name that is not listed here is shown as it is, so that a new source or stage needs no change to appear.
"""

import itertools

DATASETS = {
    "event": "Events",
    "item": "Catalogue",
    "user": "Users",
    "campaign": "Campaigns",
    "tombstone": "Takedowns",
    "history": "Histories",
    "popularity_partial": "Plays by day",
    "co_listen_partial": "Pairs by day",
    "transition_partial": "Steps by day",
    "popularity": "Charts",
    "artist_top": "Artist tops",
    "co_listen": "Co-listens",
    "transition": "Transitions",
    "vocabulary": "Vocabulary",
    "training": "Training",
    "item_embedding": "Item vectors",
    "user_embedding": "User vectors",
    "index": "Index",
    "proposal": "Proposals",
    "candidate_set": "Candidate sets",
    "exposure": "Exposure",
    "window": "Windows of the stream",
}
SURFACES = {"home": "Home", "now_playing": "Now Playing"}
SOURCES = {
    "home.next_part": "Next part",
    "home.co_listen": "Listened together",
    "home.relisten": "Listen again",
    "home.follow_new": "New releases",
    "home.two_tower": "Like what you play",
    "home.sequence": "Goes on from lately",
    "home.fresh_content": "Fresh and alike",
    "home.fresh_market": "Fresh and like the market",
    "home.popular_company": "Goes with what is popular",
    "home.popular_market": "Popular in market",
    "home.explore": "Explored",
    "np.next_part": "Next part",
    "np.session_knn": "Neighbour sessions",
    "np.session": "Goes on from this",
    "np.similar": "Like this",
    "np.transition": "Often follows",
    "np.artist_radio": "Artist radio",
    "np.familiar": "Returned to",
    "np.popular_market": "Popular in market",
    "np.explore": "Explored",
}
REASONS = {
    "next_part": "comes next in the show or book",
    "because_you_listened": "goes with",
    "new_from_yours": "new from one they like",
    "listen_again": "due to be heard again",
    "often_follows": "often follows",
    "like_what_you_play": "like what they play",
    "goes_on_from_recent": "goes on from what they played lately",
    "new_and_like_yours": "new, and like what they play",
    "new_and_like_market": "new, and like what the market plays",
    "goes_on_from_this": "goes on from this",
    "like_this": "like this",
    "played_with_this": "played in the same sessions",
    "same_artist": "same or related artist",
    "listeners_return": "its listeners, or this one, come back to this",
    "goes_with_popular": "listened to with what is popular in the market",
    "exploring": "drawn by lot, to learn who likes it",
}
RULES = {
    "unknown_item": "not in the catalogue",
    "tombstone": "taken down",
    "ineligible": "may not be recommended",
    "market": "not available in the market",
    "tier": "not in the subscription",
    "explicit": "explicit content",
    "age": "age rating",
    "unreleased": "not released yet",
    "trailer": "a trailer",
    "video": "a video, and the client shows none",
    "seed": "the seed, or a version of it",
    "in_session": "heard in this session, or a version of it",
    "blocked": "artist blocked by the user",
    "hidden": "hidden by the user",
    "opted_out": "user opted out of personal sets",
    "completed": "finished already",
    "out_of_order": "not the next part of its show or book",
    "book_unfinished": "the book goes on",
    "recent_skip": "skipped lately",
    "recently_played": "played lately",
    "language": "language not spoken",
    "duplicate": "same recording again",
    "quota": "over its source's quota",
    "series": "another book of the series",
    "cap:artist": "enough of the artist",
    "cap:album": "enough of the album",
    "cap:show": "enough of the show",
    "cap:publisher": "enough of the publisher",
    "size": "the set was full",
    "content": "gave way to another kind of content",
    "not_drawn": "not drawn to be explored",
}
CHOICES = ("duplicate", "quota", "series", "cap:", "size", "content", "not_drawn")
LEVELS = {
    0: "personal",
    1: "partly personal",
    2: "market and content",
    3: "what is popular in the market",
    4: "what is popular anywhere",
}
ITEM_LEVELS = {0: "from its own listeners", 1: "partly from its own listeners"}
DEGRADED = {
    "no_history": "no history",
    "opted_out": "opted out of personal sets",
    "holdout": "held out, to compare with",
    "unknown_market": "market unknown",
    "below_minimum_size": "shorter than the minimum",
    "too_few_to_explore": "too few items to explore",
}
LEFT_OUT = {"source_failed": "{} failed", "source_slow": "{} was too slow"}
PICKS = {"about talk": "mostly talk", "a child's account": "a child's account"}
FAMILIARITY = {"known": "known", "discovery": "known artist", "new_artist": "new artist"}
FAMILIES = {"encoder": "Encoder", "session_knn": "Neighbour sessions"}
METRICS = {"loss": "loss", "validation": "nDCG@20 on held-out listens", "mrr@20": "MRR@20"}
PARTS = {
    "type": "{}",
    "listens": "after {} listens",
    "plays": "item played {} times before",
}
OUTCOMES = {"failed": "failed", "broken": "could not run", "waived": "waived", "passed": "passed"}


def surface(name: str) -> str:
    """Name a surface."""
    return SURFACES.get(name, name.replace("_", " ").capitalize())


def dataset(name: str) -> str:
    """Name a dataset, or the raw files of one."""
    if name.startswith("raw_"):
        return f"Raw {dataset(name.removeprefix('raw_')).lower()}"
    return DATASETS.get(name, name.replace("_", " ").capitalize())


def qualifier(dataset_name: str, name: str) -> str:
    """Say which of several datasets of one name it is; nothing where the name says it."""
    if dataset_name in ("item_embedding", "user_embedding") or not name:
        return ""
    return family(name) if dataset_name == "training" else surface(name)


def source(name: str) -> str:
    """Name a source."""
    return SOURCES.get(name, name.split(".")[-1].replace("_", " ").capitalize())


def market(name: str) -> str:
    """Name a market."""
    return "any market" if name == "*" else name


def reason(code: str, market_name: str) -> str:
    """Say why a candidate is there."""
    if code == "popular_in_market":
        return "popular everywhere" if market_name == "*" else f"popular in {market_name}"
    return REASONS.get(code, code.replace("_", " "))


def degraded(code: str) -> str:
    """Return a degraded reason in words."""
    kind, _, name = code.partition(":")
    return LEFT_OUT[kind].format(source(name)) if kind in LEFT_OUT else DEGRADED.get(code, code.replace("_", " "))


def level(number: int, *, by_user: bool) -> str:
    """Say how personal a set is; a set for an item that plays is personal to the item."""
    named = LEVELS if by_user else LEVELS | ITEM_LEVELS
    return named.get(number, f"level {number}")


def family(name: str) -> str:
    """Name a model family."""
    return FAMILIES.get(name, name.replace("_", " ").capitalize())


def metric(name: str) -> str:
    """Name a figure of a training."""
    return METRICS.get(name, name.replace("_", " "))


def part(name: str) -> str:
    """Say which part of the held-out listens `kind=value` is."""
    kind, _, value = name.partition("=")
    return PARTS.get(kind, f"{kind} {{}}").format(value)


def place_of(name: str) -> tuple[int, int, str]:
    """Return where a part stands among others: by kind, then from the lowest number on."""
    kind, _, value = name.partition("=")
    digits = "".join(itertools.takewhile(str.isdigit, value))
    return (list(PARTS).index(kind) if kind in PARTS else len(PARTS), int(digits or 0), value)


def rule(name: str) -> str:
    """Say why a proposal was removed."""
    return RULES.get(name, name.replace("_", " "))


def released(state: str) -> str:
    """Say what publishing did."""
    if state.startswith("overlay: "):
        return f"live beside the batch's, the last of {state.removeprefix('overlay: ')} made since"
    known = {"released": "live", "already live": "live, unchanged", "": "not published"}
    return known.get(state, f"kept, not live ({state.removeprefix('archived: ')})")
