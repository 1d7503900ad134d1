"""What is counted from events: histories, popularity, co-listens, transitions, and their additive daily partials.

Weights are `int64` in units of 1/1024 of a full-strength positive: integer sums do not depend on their order, so that
shards, days and machines may be added in any order and give the same bytes.
"""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import ID
from schemas.rules import Between, OneOf

WEIGHT_UNIT = 1024
ANY = "*"
_LISTEN = pa.struct(
    [
        pa.field("item_id", pa.string(), False),
        pa.field("item_type", pa.string(), False),
        pa.field("event_ts", TIMESTAMP, False),
        pa.field("label", pa.float32(), False),
        pa.field("session_id", pa.string()),
    ]
)
_IMPRESSION = pa.struct([pa.field("item_id", pa.string(), False), pa.field("event_ts", TIMESTAMP, False)])
_HABIT = pa.struct(
    [
        pa.field("band", pa.int32()),
        pa.field("device", pa.string(), False),
        pa.field("kind", pa.string(), False),
        pa.field("plays", pa.int32(), False),
    ]
)
_PERSONAL = ("event.private_session", "event.consent_personalization")
_COUNTED = ("event.user_id", "event.item_id", "event.event_ts", "event.event_date", "event.session_id", "event.label",
            "event.campaign_id")  # fmt: skip
_WEIGHT = ("event.label", "event.is_organic")


def _item(name: str, description: str, *sources: str) -> pa.Field:
    return column(name, pa.string(), description, rules=ID, derived_from=sources)


def _weight(description: str, *sources: str, name: str = "weight", nullable: bool = False) -> pa.Field:
    return column(name, pa.int64(), description, unit="1/1024 positive", derived_from=sources, nullable=nullable)


HISTORY = Contract(
    name="history",
    version="1.0.0",
    owner="segue-histories",
    description="What one user did, in event time, as of a date.",
    key=("user_id",),
    shard_by="user_id",
    schema=pa.schema(
        [
            column("user_id", pa.string(), "Whose history.", rules=ID, derived_from=("event.user_id",)),
            column("market", pa.string(), "Market of the last play.", nullable=True,
                   derived_from=("event.market", "?event.event_ts")),
            column("positives", pa.list_(_LISTEN), "Last 1,000 positives, oldest first.",
                   derived_from=("event.item_id", "event.item_type", "event.event_ts", "event.label",
                                 "event.session_id")),
            column("skips", pa.list_(_LISTEN), "Last 50 negatives, oldest first.",
                   derived_from=("event.item_id", "event.item_type", "event.event_ts", "event.label",
                                 "event.session_id")),
            column("impressions", pa.list_(_IMPRESSION), "Last 500 items shown, oldest first.",
                   derived_from=("event.item_id", "event.event_ts", "?event.event_type")),
            column("habits", pa.list_(_HABIT),
                   "Positives by quarter of the local day (0 from midnight, null where unknown), class of device and kind of"
                   " content.",
                   derived_from=("event.item_type", "event.device_type", "event.event_ts", "event.utc_offset_min",
                                 "?event.item_id", "?event.session_id", "?event.label")),
            column("num_events", pa.int64(), "Events in the window.", rules=(Between(1, 1e12),),
                   derived_from=("?event.user_id",)),
            column("num_positives", pa.int64(), "Positives in the window.", rules=(Between(0, 1e12),),
                   derived_from=("?event.label",)),
            column("first_event_ts", TIMESTAMP, "First event in the window.", derived_from=("event.event_ts",)),
            column("last_event_ts", TIMESTAMP, "Last event in the window.", derived_from=("event.event_ts",)),
        ]
    ),
    rows_from=("event.user_id", *_PERSONAL),
)  # fmt: skip

POPULARITY_PARTIAL = Contract(
    name="popularity_partial",
    version="1.0.0",
    owner="segue-tallies",
    description="Plays of one day by item, type it was played as, market and tier.",
    key=("event_date", "item_id", "item_type", "market", "tier"),
    shard_by="item_id",
    schema=pa.schema(
        [
            column("event_date", pa.date32(), "Day.", derived_from=("event.event_date",)),
            _item("item_id", "Item.", "event.item_id"),
            column("item_type", pa.string(), "Kind of item.", derived_from=("event.item_type",)),
            column("market", pa.string(), "Market of play, * where unknown.", derived_from=("event.market",)),
            column("tier", pa.string(), "Tier of the user, free where unknown.", derived_from=("user.tier",)),
            _weight("Sum of positive labels.", *_WEIGHT),
            column("plays", pa.int64(), "Positive events.", derived_from=("?event.label",)),
        ]
    ),
    rows_from=(*_COUNTED, "event.item_type", "event.market", "user.user_id", "user.tier"),
)  # fmt: skip

POPULARITY = Contract(
    name="popularity",
    version="1.0.0",
    owner="segue-tallies",
    description="Top items per market, tier and item type, time-decayed; * rows add up all markets or tiers.",
    key=("market", "tier", "item_type", "item_id"),
    shard_by="market",
    schema=pa.schema(
        [
            column("market", pa.string(), "Market, * for all.", derived_from=("popularity_partial.market",)),
            column("tier", pa.string(), "Tier, * for all.", derived_from=("popularity_partial.tier",)),
            column("item_type", pa.string(), "Kind of item.", derived_from=("popularity_partial.item_type",)),
            _item("item_id", "Item.", "popularity_partial.item_id"),
            _weight("Decayed sum of positive labels.", "popularity_partial.weight", "popularity_partial.event_date"),
            column("rank", pa.int32(), "0 is the top of its market, tier and type.", rules=(Between(0, 1e6),),
                   derived_from=("popularity_partial.weight", "?popularity_partial.item_id")),
        ]
    ),
    rows_from=("popularity_partial.item_id", "popularity_partial.item_type", "popularity_partial.market", "popularity_partial.tier", "popularity_partial.weight", "popularity_partial.event_date"),
)  # fmt: skip

ARTIST_TOP = Contract(
    name="artist_top",
    version="1.0.0",
    owner="segue-tallies",
    description="The most played items of each artist, show or book, time-decayed.",
    key=("artist_id", "item_id"),
    shard_by="artist_id",
    schema=pa.schema(
        [
            _item("artist_id", "Primary artist, else show.", "item.artists", "item.show_id"),
            _item("item_id", "Item.", "item.item_id"),
            _weight("Decayed sum of positive labels.", "popularity_partial.weight", "popularity_partial.event_date"),
            column("rank", pa.int32(), "0 is the most played.", rules=(Between(0, 1e6),),
                   derived_from=("popularity_partial.weight", "?item.item_id")),
        ]
    ),
    rows_from=("popularity_partial.item_id", "popularity_partial.weight", "popularity_partial.event_date",
               "item.item_id", "item.artists", "item.show_id"),
)  # fmt: skip

CO_LISTEN_PARTIAL = Contract(
    name="co_listen_partial",
    version="1.0.0",
    owner="segue-tallies",
    description=(
        "Pairs of items one user liked on one day, each pair once, the smaller id first. A row of an item with itself"
        " holds the item's own total."
    ),
    key=("event_date", "item_id", "other_item_id"),
    shard_by="item_id",
    schema=pa.schema(
        [
            column("event_date", pa.date32(), "Day.", derived_from=("event.event_date",)),
            _item("item_id", "Item.", "event.item_id"),
            _item("other_item_id", "Item liked in the same session or on the same day.", "event.item_id"),
            _weight("Sum of pair weights; half between sessions of one day.", *_WEIGHT),
            _weight("On an item's own row: the part of its weight that users returned for within the day.",
                    *_WEIGHT, name="returns"),
        ]
    ),
    rows_from=(*_COUNTED, *_PERSONAL),
)  # fmt: skip

CO_LISTEN = Contract(
    name="co_listen",
    version="1.0.0",
    owner="segue-tallies",
    description="For each item, the items most listened to with it, decayed and normalised.",
    key=("item_id", "other_item_id"),
    shard_by="item_id",
    schema=pa.schema(
        [
            _item("item_id", "Seed.", "co_listen_partial.item_id"),
            _item("other_item_id", "Neighbour.", "co_listen_partial.other_item_id"),
            _weight("Decayed pair weight.", "co_listen_partial.weight", "co_listen_partial.event_date"),
            column("score", pa.float32(), "Normalised co-occurrence, comparable for one seed.",
                   rules=(Between(0, 1e9),),
                   derived_from=("co_listen_partial.weight", "co_listen_partial.event_date")),
            column("rank", pa.int32(), "0 is the nearest.", rules=(Between(0, 1e6),),
                   derived_from=("co_listen_partial.weight", "?co_listen_partial.other_item_id")),
            column("other_return_rate", pa.float32(), "Share of the neighbour's weight that users returned for.",
                   rules=(Between(0, 1),), derived_from=("co_listen_partial.returns", "co_listen_partial.weight")),
        ]
    ),
    rows_from=("co_listen_partial.item_id", "co_listen_partial.other_item_id", "co_listen_partial.weight", "co_listen_partial.event_date"),
)  # fmt: skip

TRANSITION_PARTIAL = Contract(
    name="transition_partial",
    version="1.0.0",
    owner="segue-tallies",
    description="What followed what within a session, of one day.",
    key=("event_date", "item_id", "next_item_id"),
    shard_by="item_id",
    schema=pa.schema(
        [
            column("event_date", pa.date32(), "Day.", derived_from=("event.event_date",)),
            _item("item_id", "Item.", "event.item_id"),
            _item("next_item_id", "What followed it in the session.", "event.item_id"),
            _weight("Sum over direct followers, and half of it one step further.", *_WEIGHT),
        ]
    ),
    rows_from=(*_COUNTED, *_PERSONAL),
)  # fmt: skip

TRANSITION_LEVELS = ("item", "canonical", "artist", "genre")
TRANSITION = Contract(
    name="transition",
    version="1.0.0",
    owner="segue-tallies",
    description="What follows an item; where an item says too little: its canonical recording, artist or genre.",
    key=("level", "context_id", "next_item_id"),
    shard_by="context_id",
    schema=pa.schema(
        [
            column("level", pa.string(), "Back-off level.", rules=(OneOf(TRANSITION_LEVELS),),
                   derived_from=("?item.item_id",)),
            _item("context_id", "Item, canonical item, artist or genre.", "transition_partial.item_id", "item.artists",
                  "item.show_id", "item.genres", "item.canonical_id"),
            _item("next_item_id", "What follows.", "transition_partial.next_item_id"),
            _weight("Decayed weight.", "transition_partial.weight", "transition_partial.event_date"),
            column("probability", pa.float32(), "weight / all weight of the context.", rules=(Between(0, 1),),
                   derived_from=("transition_partial.weight", "transition_partial.event_date")),
            column("rank", pa.int32(), "0 is the likeliest.", rules=(Between(0, 1e6),),
                   derived_from=("transition_partial.weight", "?transition_partial.next_item_id")),
        ]
    ),
    rows_from=("transition_partial.item_id", "transition_partial.next_item_id", "transition_partial.weight",
               "transition_partial.event_date", "item.item_id", "item.canonical_id", "item.artists", "item.show_id",
               "item.genres"),
)  # fmt: skip
