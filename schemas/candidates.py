"""What leaves the road: proposals, candidate sets and rejections."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import ID
from schemas.rules import Between, MaxLength, OneOf, Required

CONTRACT_VERSION = "1.0.0"
FAMILIARITIES = ("known", "discovery", "new_artist")
RUN_MODES = ("batch", "stream", "backfill")
DEFAULT_USER = "*"
PLACES_OF_SET, PLACES_OF_CHART = 80, 20
"""Where a seed's set of market `*` serves: so many of its candidates, then so many of the market's chart."""
_TALLIES = ("popularity.weight", "co_listen.score", "transition.probability", "artist_top.rank", "item.release_ts")
_SCORED = ("history.positives", "history.skips", *_TALLIES, "co_listen.other_return_rate", "transition.level",
           "user.follows")  # fmt: skip
_WHO = ("user.user_id", "user.deletion_requested_at", "user.personalization_opt_out", "tombstone.entity",
        "tombstone.id", "history.user_id", "popularity_partial.item_id")  # fmt: skip
_SERVABLE = ("item.item_id", "item.item_type", "item.canonical_id", "item.artists", "item.show_id", "item.release_ts",
             "item.availability", "item.rec_eligible", "item.deleted_at", "item.season", "item.episode_no", "item.is_trailer",
             "item.is_serial", "popularity.market")  # fmt: skip

PROPOSAL = Contract(
    name="proposal",
    version="1.0.0",
    owner="segue-retrieve",
    description="One item that one source proposes for one user (Home) or one seed item (Now Playing).",
    key=("key", "source_id", "item_id"),
    shard_by="key",
    schema=pa.schema(
        [
            column("key", pa.string(), "user_id, seed item_id, or *|market|tier for whoever is there.", rules=ID,
                   derived_from=("history.user_id", "user.user_id", "popularity_partial.item_id", "popularity.market")),
            column("source_id", pa.string(), "Source.", rules=ID, derived_from=("?history.positives",)),
            column("item_id", pa.string(), "Proposed item.", rules=ID,
                   derived_from=("history.positives", "co_listen.other_item_id", "transition.next_item_id", "popularity.item_id",
                                 "artist_top.item_id", "item.item_id", "?item.is_video")),
            column("source_rank", pa.int32(), "0 is the source's best for this key.", rules=(Between(0, 1e6),),
                   derived_from=_SCORED),
            column("raw_score", pa.float32(), "The source's own score; never compared across sources.",
                   rules=(Between(-3.0e38, 3.0e38),), derived_from=_SCORED),
            column("score_kind", pa.string(), "What raw_score is.", rules=(Required(),)),
            column("signal_type", pa.string(), "What the proposal rests on.", rules=(Required(),)),
            column("seed_item_ids", pa.list_(pa.string()), "Items that led to it, the strongest first.",
                   rules=(MaxLength(3),), derived_from=("history.positives", "popularity_partial.item_id")),
            column("seed_event_ts", TIMESTAMP, "Last event of the strongest seed.", nullable=True,
                   derived_from=("history.positives",)),
            column("stratum", pa.string(), "Stratum an item to explore was sampled from: type, age and popularity.",
                   nullable=True, derived_from=("item.item_type", "item.release_ts", "popularity.rank")),
        ]
    ),
    rows_from=(*_WHO, *_SERVABLE, *_SCORED, "item.genres", "co_listen.item_id", "co_listen.other_item_id", "co_listen.rank",
               "transition.context_id", "transition.next_item_id", "artist_top.artist_id", "artist_top.item_id",
               "popularity.tier", "popularity.item_id", "popularity.item_type", "popularity.rank", "item_embedding.item_id", "item_embedding.vector",
               "user_embedding.user_id", "user_embedding.vector", "vocabulary.item_id", "vocabulary.positives",
               "item.languages", "item.explicit", "item.age_rating", "history.market", "user.market", "user.tier",
               "user.explicit_filter", "user.age_band", "user.languages", "user.blocked_artists", "user.hidden_items"),
)  # fmt: skip

CALIBRATION = Contract(
    name="calibration",
    version="1.0.0",
    owner="segue-blend",
    description="How often what a source proposed at a rank was played afterwards, as a probability that falls with the "
    "rank. A fit over all its inputs, without lineage by column.",
    key=("source_id", "source_rank"),
    shard_by=None,
    schema=pa.schema(
        [
            column("source_id", pa.string(), "Source.", rules=ID),
            column("source_rank", pa.int32(), "0 is the source's best for a key.", rules=(Between(0, 1e6),)),
            column("trials", pa.float64(), "Proposals at the rank that could be taken up; older ones weigh less.",
                   rules=(Between(0, 1e15),)),
            column("positives", pa.float64(), "Those that were taken up, weighed likewise.", rules=(Between(0, 1e15),)),
            column("probability", pa.float64(), "P(taken up | proposed at the rank).", rules=(Between(0, 1),)),
            column("first_trials", pa.float64(), "Of the trials, those of items that no source before it in the flow proposed.",
                   rules=(Between(0, 1e15),)),
            column("first_positives", pa.float64(), "Those that were taken up.", rules=(Between(0, 1e15),)),
            column("first_probability", pa.float64(), "P(taken up | proposed at the rank, and by no source before it).",
                   rules=(Between(0, 1),)),
        ]
    ),
)  # fmt: skip

_SOURCE = pa.struct(
    [
        pa.field("source_id", pa.string(), False),
        pa.field("signal_type", pa.string(), False),
        pa.field("seed_item_ids", pa.list_(pa.string())),
        pa.field("seed_event_ts", TIMESTAMP),
        pa.field("source_rank", pa.int32(), False),
        pa.field("raw_score", pa.float32(), False),
        pa.field("score_kind", pa.string(), False),
        pa.field("calibrated_score", pa.float32(), False),
        pa.field("model_id", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("embedding_space_id", pa.string()),
        pa.field("index_id", pa.string()),
        pa.field("index_version", pa.string()),
    ]
)
_PROMO = pa.struct(
    [
        pa.field("campaign_id", pa.string()),
        pa.field("disclosure_key", pa.string()),
        pa.field("shadow_price", pa.float32()),
        pa.field("freq_remaining", pa.int32()),
    ]
)
CANDIDATE = pa.struct(
    [
        pa.field("item_id", pa.string(), False),
        pa.field("item_type", pa.string(), False),
        pa.field("canonical_id", pa.string(), False),
        pa.field("position", pa.int32(), False),
        pa.field("blend_score", pa.float32(), False),
        pa.field("sources", pa.list_(_SOURCE), False),
        pa.field("is_exploration", pa.bool_(), False),
        pa.field("propensity", pa.float64(), False),
        pa.field("stratum", pa.string()),
        pa.field("promo", _PROMO),
        pa.field("familiarity", pa.string(), False),
        pa.field("is_fresh", pa.bool_(), False),
        pa.field("available_until", TIMESTAMP),
        pa.field("reason_code", pa.string(), False),
    ]
)
_CONTEXT = pa.struct(
    [
        pa.field("seed_item_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("last_event_ts", TIMESTAMP),
        pa.field("local_hour", pa.int32()),
        pa.field("device", pa.string()),
    ]
)
_EXPLORATION = pa.struct(
    [pa.field("id", pa.string(), False), pa.field("slots", pa.int32(), False), pa.field("seed", pa.int64(), False)]
)
_RULE_COUNT = pa.struct([pa.field("rule", pa.string(), False), pa.field("count", pa.int32(), False)])
_ARM = pa.struct([pa.field("experiment", pa.string(), False), pa.field("arm", pa.string(), False)])
_COUNTS = pa.struct(
    [
        pa.field("in", pa.int32(), False),
        pa.field("filtered_by_rule", pa.list_(_RULE_COUNT), False),
        pa.field("out", pa.int32(), False),
    ]
)
_PROPOSED = ("proposal.item_id", "proposal.source_id", "proposal.source_rank", "item.canonical_id", "item.title")
_SHOWN = ("proposal.raw_score", "proposal.stratum", "proposal.score_kind", "proposal.signal_type", "proposal.seed_item_ids",
          "proposal.seed_event_ts", "item.item_type", "item.release_ts", "item.availability", "history.positives")  # fmt: skip
_RECORD = ("user.user_id", "history.user_id", "popularity_partial.item_id", "proposal.key")
_FILTERED = ("item.series_id", "item.languages", "item.explicit", "item.age_rating", "item.album_id", "item.publisher", "user.market",
             "user.tier", "user.explicit_filter", "user.age_band", "user.languages", "user.blocked_artists",
             "user.hidden_items", "history.market", "history.positives", "history.skips", "popularity_partial.market")  # fmt: skip
_WEIGHED = (
    "?history.impressions",
    "?history.habits",
    "?popularity.tier",
    "?popularity.item_type",
    "?popularity.weight",
    "?item.is_video",
)
"""What fatigue, content floors and what a client may not show rest on."""


COUNT_BITS = 11
"""Of a sequence: enough for a listener's day; microseconds then last until the year 2112."""


def sequence_of(event_ts: int, count: int) -> int:
    """Return the time of the newest event, us since 1970, and a count of events below 2,048, as one int64 in the order of both."""
    return event_ts << COUNT_BITS | min(count, (1 << COUNT_BITS) - 1)


def _set(name: str, type_: pa.DataType, description: str, *rules, nullable: bool = False, sources=()) -> pa.Field:
    return column(name, type_, description, rules=rules, nullable=nullable, derived_from=sources)


CANDIDATE_SET = Contract(
    name="candidate_set",
    version=CONTRACT_VERSION,
    owner="segue-blend",
    description="What a ranker receives: one record per user (Home) or per seed item and market (Now Playing).",
    key=("candidate_set_id",),
    shard_by="record_key",
    schema=pa.schema(
        [
            _set("candidate_set_id", pa.string(), "Hash of surface, record key, run and sequence.", *ID,
                 sources=_RECORD),
            _set("contract_version", pa.string(), "Version of this contract.", Required()),
            _set("record_key", pa.string(), "user_id on Home, seed item_id on Now Playing, * for anybody else.", *ID,
                 sources=_RECORD),
            _set("user_id", pa.string(), "User; null on Now Playing's batch sets, * for a user nobody has seen.",
                 MaxLength(200), nullable=True, sources=("user.user_id", "history.user_id")),
            _set("surface", pa.string(), "Surface.", OneOf(("home", "now_playing"))),
            _set("context_key", pa.string(), "What else tells two records of one key apart: the market.",
                 MaxLength(300), sources=("popularity_partial.market", "proposal.key")),
            _set("context", _CONTEXT, "Seed and session of the set.",
                 sources=("popularity_partial.item_id", "history.positives")),
            _set("market", pa.string(), "Market it is valid in, * for all. A seed's set of * is served with the chart of the market in its last 20 places.", Required(), MaxLength(2),
                 sources=("history.market", "user.market", "popularity_partial.market", "proposal.key")),
            _set("tier", pa.string(), "Tier it is valid for, * for all.", Required(), sources=("user.tier", "proposal.key")),
            _set("run_id", pa.string(), "Run that made it.", *ID),
            _set("run_mode", pa.string(), "How it was made.", OneOf(RUN_MODES)),
            _set("logical_date", pa.date32(), "Date the run is as of."),
            _set("generated_at", TIMESTAMP,
                 "Logical instant of the run: the end of logical_date. Wall clock is lineage's."),
            _set("effective_from", TIMESTAMP, "Valid from."),
            _set("expires_at", TIMESTAMP, "Not to be served at or after."),
            _set("sequence", pa.int64(), "Time of source_watermark in us, and the number of events in 11 bits: the greater wins.",
                 Between(0, 9.2e18), sources=("history.last_event_ts",)),
            _set("base_run_id", pa.string(), "Run of the set an overlay lies on.", nullable=True),
            _set("source_watermark", TIMESTAMP, "Last event it knows of.", sources=("history.last_event_ts",)),
            _set("bundle_id", pa.string(), "What it was retrieved from.", *ID),
            _set("catalog_snapshot_id", pa.string(), "Catalogue.", *ID),
            _set("user_snapshot_id", pa.string(), "Users.", *ID),
            _set("campaign_snapshot_id", pa.string(), "Campaigns.", *ID),
            _set("policy_version", pa.string(), "Quotas, caps and thresholds.", *ID),
            _set("code_version", pa.string(), "Code.", *ID),
            _set("experiment_arms", pa.list_(_ARM), "Experiments."),
            _set("exploration_policy", _EXPLORATION, "How explored items were drawn: sampler, items drawn, seed of the record.",
                 sources=("proposal.key", "proposal.item_id", "proposal.source_id", "item.availability", *_WEIGHED)),
            _set("fallback_level", pa.int32(),
                 "0 personal, 1 partial, 2 market and content, 3 market popular, 4 static.",
                 Between(0, 4), sources=("proposal.source_id", "user.market", "history.market", *_WEIGHED)),
            _set("degraded_reasons", pa.list_(pa.string()), "Why it is less than it could be.",
                 sources=("user.personalization_opt_out", "user.market", "history.market", "history.user_id",
                          *_WEIGHED)),
            _set("gate_report_id", pa.string(), "Check report of the run.", *ID),
            _set("counts", _COUNTS, "Proposals in, removed by rule, candidates out.", sources=(*_PROPOSED, *_WEIGHED)),
            _set("candidates", pa.list_(CANDIDATE), "Candidates in blend order.", Required(), MaxLength(500),
                 sources=(*_PROPOSED, *_SHOWN, *_WEIGHED)),
        ]
    ),
    rows_from=(*_WHO, *_SERVABLE, *_FILTERED, *_PROPOSED, "proposal.key"),
)  # fmt: skip

EXPOSURE = Contract(
    name="exposure",
    version="1.0.0",
    owner="segue-blend",
    description="How often each item is in the candidate sets of a run: what concentration and coverage are read from.",
    key=("item_id",),
    shard_by="item_id",
    schema=pa.schema(
        [
            column("item_id", pa.string(), "Item.", rules=ID, derived_from=("candidate_set.candidates",)),
            column("item_type", pa.string(), "Kind of item.", derived_from=("candidate_set.candidates",)),
            column("sets", pa.int64(), "Sets it is in.", rules=(Between(1, 1e15),),
                   derived_from=("candidate_set.candidates",)),
            column("sets_chosen", pa.int64(), "Sets it is in for another reason than the fallback source.",
                   rules=(Between(0, 1e15),), derived_from=("candidate_set.candidates",)),
        ]
    ),
)  # fmt: skip

REJECTION = Contract(
    name="rejection",
    version="1.0.0",
    owner="segue-ingest",
    description="A row that was not let in: where it came from, which rule, and its payload without private fields.",
    key=("source", "position", "rule"),
    shard_by=None,
    schema=pa.schema(
        [
            column("dataset", pa.string(), "Contract it was meant for.", rules=ID),
            column("stage", pa.string(), "Stage that rejected it.", rules=ID),
            column("rule", pa.string(), "Rule it broke, the first one in declared order.", rules=(Required(),)),
            column("detail", pa.string(), "What was expected and what came.", nullable=True),
            column("source", pa.string(), "File it came from, relative to the input folder.", rules=(Required(),)),
            column("position", pa.int64(), "Row of the file, from 0.", rules=(Between(0, 1e15),)),
            column("payload", pa.string(), "The row as JSON, or the line as it came; private fields are left out.",
                   nullable=True),
            column("code_version", pa.string(), "Code that rejected it.", rules=ID),
        ]
    ),
)  # fmt: skip
