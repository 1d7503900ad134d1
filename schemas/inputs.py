"""What enters the road: events, items, users, campaigns and tombstones."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, column
from schemas.rules import AtMost, Between, MaxLength, NotAfter, OneOf, Required, RequiredWhen, Rule

EVENT_SCHEMA_VERSION = 1
ITEM_TYPES = ("track", "episode", "show", "audiobook", "chapter", "video", "artist", "album", "playlist")
EVENT_TYPES = (
    "play", "skip", "like", "unlike", "dislike", "add", "remove", "playlist_add", "follow", "unfollow", "search",
    "search_click", "impression", "promo_dismiss", "hide", "share",
)  # fmt: skip
TIERS = ("free", "premium", "duo", "family", "student", "kids")
SURFACES = ("home", "now_playing", "search", "library", "browse", "other")
REASONS = ("track_done", "fwd", "back", "end", "error", "logout", "trackdone_auto", "click", "autoplay")
CONTEXTS = ("album", "playlist", "artist", "search", "home_shelf", "autoplay", "queue", "radio", "show", "library")
MAX_PLAY_MS = 24 * 3600 * 1000
CLOCK_SKEW_S = 300
SESSION_GAP_S = 1800
ID = (Required(), MaxLength(200))
STRINGS = pa.list_(pa.string())


def given(dataset: str):
    """Return a `column` that a producer delivers under the same name."""

    def build(name: str, type_: pa.DataType, description: str, *rules: Rule, nullable: bool = True, unit=None):
        return column(
            name, type_, description, unit=unit, nullable=nullable, rules=rules, derived_from=(f"raw_{dataset}.{name}",)
        )

    return build


_e = given("event")
EVENT = Contract(
    name="event",
    version="1.0.0",
    owner="segue-ingest",
    description="One thing a user did, decoded, checked, deduplicated and labelled.",
    key=("event_id",),
    shard_by="user_id",
    schema=pa.schema(
        [
            _e("event_id", pa.string(), "Globally unique, assigned by the producer; the dedupe key.", *ID,
               nullable=False),
            _e("schema_version", pa.int32(), "Version of the event's shape; an unknown one is rejected.",
               Between(1, EVENT_SCHEMA_VERSION), nullable=False),
            _e("event_type", pa.string(), "What happened.", OneOf(EVENT_TYPES), nullable=False),
            _e("event_ts", TIMESTAMP, "Client clock; decides order and date.", NotAfter("ingest_ts", CLOCK_SKEW_S),
               nullable=False),
            _e("ingest_ts", TIMESTAMP, "Server clock at reception.", nullable=False),
            _e("user_id", pa.string(), "Pseudonymous and salted; never an e-mail.", *ID, nullable=False),
            column("session_id", pa.string(), "Given, or derived: 30 minutes of inactivity start a new session.",
                   rules=ID, derived_from=("raw_event.session_id", "?raw_event.event_ts", "?raw_event.user_id")),
            _e("item_id", pa.string(), "What it happened to.", *ID, nullable=False),
            _e("item_type", pa.string(), "Kind of item.", OneOf(ITEM_TYPES), nullable=False),
            _e("ms_played", pa.int64(), "How long it played.", Between(0, MAX_PLAY_MS),
               RequiredWhen("event_type", ("play", "skip")), AtMost("item_duration_ms", 1.1, 30_000), unit="ms"),
            _e("item_duration_ms", pa.int64(), "How long the item is.", Between(0, 7 * MAX_PLAY_MS), unit="ms"),
            _e("reason_start", pa.string(), "Why it started.", OneOf(REASONS)),
            _e("reason_end", pa.string(), "Why it ended.", OneOf(REASONS)),
            _e("context_uri", pa.string(), "What it was played from.", MaxLength(500)),
            _e("context_type", pa.string(), "Kind of context.", OneOf(CONTEXTS)),
            _e("surface", pa.string(), "Where in the client.", OneOf(SURFACES)),
            _e("is_organic", pa.bool_(), "The user picked it; false where a recommender chose it."),
            _e("candidate_set_id", pa.string(), "Set that recommended it; null if organic.", MaxLength(200)),
            _e("source_id", pa.string(), "Source that proposed it; null if organic.", MaxLength(200)),
            _e("rank", pa.int32(), "Position it was shown at; null if organic.", Between(0, 100_000)),
            _e("campaign_id", pa.string(), "Promoted exposure; excluded from organic training targets.",
               MaxLength(200)),
            _e("device_type", pa.string(), "Kind of device.", MaxLength(50)),
            _e("platform", pa.string(), "Operating system.", MaxLength(50)),
            _e("app_version", pa.string(), "Version of the client.", MaxLength(50)),
            _e("offline", pa.bool_(), "Played without a connection."),
            _e("shuffle", pa.bool_(), "Played in shuffle mode."),
            _e("private_session", pa.bool_(), "Nothing personal learns from it."),
            _e("market", pa.string(), "Market of play, ISO 3166 alpha-2.", MaxLength(2)),
            _e("utc_offset_min", pa.int32(), "Offset of local time.", Between(-14 * 60, 14 * 60), unit="min"),
            _e("query_hash", pa.string(), "Search only; the query itself stays upstream.", MaxLength(64)),
            _e("consent_personalization", pa.bool_(), "False: counts only in anonymous aggregates."),
            column("event_date", pa.date32(), "UTC date of event_ts.", derived_from=("raw_event.event_ts",)),
            column("label", pa.float32(), "Label strength: above 0 liked, below 0 disliked, 0 says nothing.",
                   rules=(Between(-1, 1),),
                   derived_from=("raw_event.event_type", "raw_event.ms_played", "raw_event.item_duration_ms",
                                 "raw_event.item_type", "raw_event.is_organic", "raw_event.context_type",
                                 "raw_event.shuffle", "raw_event.offline", "raw_event.reason_start")),
            column("label_version", pa.int32(), "Version of the label function."),
        ]
    ),
    rows_from=("raw_event.user_id", "user.user_id", "user.deletion_requested_at", "tombstone.entity", "tombstone.id"),
)  # fmt: skip

_i = given("item")
ITEM = Contract(
    name="item",
    version="1.0.0",
    owner="segue-catalogue",
    description="One entry of the catalogue as of a date.",
    key=("item_id",),
    shard_by="item_id",
    schema=pa.schema(
        [
            _i("item_id", pa.string(), "Identity.", *ID, nullable=False),
            _i("item_type", pa.string(), "Kind of item.", OneOf(ITEM_TYPES), nullable=False),
            column("canonical_id", pa.string(), "Same recording across releases (ISRC or linked id); item_id if none.",
                   rules=ID, derived_from=("raw_item.canonical_id", "raw_item.item_id")),
            _i("title", pa.string(), "Title.", MaxLength(2000)),
            _i("description", pa.string(), "Free text.", MaxLength(100_000)),
            _i("languages", pa.list_(pa.string()), "ISO 639-1 codes."),
            _i("artists", pa.list_(pa.struct([
                pa.field("artist_id", pa.string(), False), pa.field("name", pa.string()),
                pa.field("role", pa.string())])),
               "Artists, the primary one first.", MaxLength(1000)),
            _i("album_id", pa.string(), "Album of a track.", MaxLength(200)),
            _i("show_id", pa.string(), "Show of an episode, book of a chapter.", MaxLength(200)),
            _i("author", pa.string(), "Author of an audiobook."),
            _i("narrator", pa.string(), "Narrator of an audiobook."),
            _i("publisher", pa.string(), "Publisher or label."),
            _i("genres", pa.list_(pa.string()), "Genres or tags, the strongest first.", MaxLength(1000)),
            _i("release_ts", TIMESTAMP, "First release."),
            _i("availability", pa.list_(pa.struct([
                pa.field("market", pa.string(), False), pa.field("tiers", pa.list_(pa.string())),
                pa.field("from_ts", TIMESTAMP), pa.field("to_ts", TIMESTAMP)])),
               "Where, for whom and when it may be played; market * and null tiers mean all; null means everywhere.",
               MaxLength(2000)),
            column("explicit", pa.bool_(), "Explicit content; unknown counts as explicit.",
                   derived_from=("raw_item.explicit",)),
            _i("age_rating", pa.int32(), "Least age.", Between(0, 21), unit="years"),
            column("rec_eligible", pa.bool_(), "May be recommended; unknown counts as true.",
                   derived_from=("raw_item.rec_eligible",)),
            _i("rec_ineligible_reason", pa.string(), "Why not."),
            _i("duration_ms", pa.int64(), "Length.", Between(0, 7 * MAX_PLAY_MS), unit="ms"),
            _i("episode_no", pa.int32(), "Number of an episode or chapter.", Between(0, 1_000_000)),
            _i("season", pa.int32(), "Season of an episode.", Between(0, 100_000)),
            _i("is_trailer", pa.bool_(), "A trailer of its show."),
            _i("is_serial", pa.bool_(),
               "To be heard in order of season and number; of a show and of each of its episodes; unknown counts as false."),
            _i("series_id", pa.string(), "Series of an audiobook.", MaxLength(200)),
            _i("is_video", pa.bool_(), "Needs a video-capable client."),
            column("text_hash", pa.string(), "Digest of title, description, artists and genres.",
                   derived_from=("raw_item.title", "raw_item.description", "raw_item.artists", "raw_item.genres")),
            _i("audio_vector_ref", pa.string(), "Where its audio vector lies."),
            _i("popularity_prior", pa.float32(), "Editorial or external popularity."),
            _i("created_at", TIMESTAMP, "Entered the catalogue."),
            _i("updated_at", TIMESTAMP, "Last change; of two rows of one item the later one counts."),
            _i("deleted_at", TIMESTAMP, "Left the catalogue."),
        ]
    ),
)  # fmt: skip

_u = given("user")
USER = Contract(
    name="user",
    version="1.0.0",
    owner="segue-accounts",
    description="One user as of a date.",
    key=("user_id",),
    shard_by="user_id",
    schema=pa.schema(
        [
            _u("user_id", pa.string(), "Pseudonymous and salted; never an e-mail.", *ID, nullable=False),
            _u("market", pa.string(), "Market of registration, ISO 3166 alpha-2.", MaxLength(2)),
            _u("tier", pa.string(), "Subscription; unknown counts as free.", OneOf(TIERS)),
            _u("explicit_filter", pa.bool_(), "No explicit content; unknown counts as false."),
            _u("age_band", pa.string(), "Age in years.",
               OneOf(("0-12", "13-17", "18-24", "25-34", "35-44", "45-54", "55+"))),
            _u("languages", pa.list_(pa.string()), "ISO 639-1 codes."),
            _u("registered_at", TIMESTAMP, "Registration."),
            _u("follows", pa.list_(pa.string()), "Followed artists and shows.", MaxLength(10_000)),
            _u("blocked_artists", pa.list_(pa.string()), "Never recommend.", MaxLength(10_000)),
            _u("hidden_items", pa.list_(pa.string()), "Never recommend.", MaxLength(100_000)),
            _u("promo_opt_out", pa.bool_(), "No promoted candidates."),
            _u("personalization_opt_out", pa.bool_(), "Market sets only."),
            _u("deletion_requested_at", TIMESTAMP, "Erasure requested: treated as a tombstone."),
        ]
    ),
)  # fmt: skip

_c = given("campaign")
CAMPAIGN = Contract(
    name="campaign",
    version="1.0.0",
    owner="segue-campaigns",
    description="One campaign as of a date.",
    key=("campaign_id",),
    shard_by=None,
    schema=pa.schema(
        [
            _c("campaign_id", pa.string(), "Identity.", *ID, nullable=False),
            _c("kind", pa.string(), "Strategic or paid.", OneOf(("strategic", "paid")), nullable=False),
            _c("owner", pa.string(), "Who answers for it."),
            _c("item_ids", pa.list_(pa.string()), "What is promoted.", MaxLength(10_000)),
            _c("objective", pa.string(), "What it is for."),
            _c("market", pa.string(), "Where.", MaxLength(2)),
            _c("tiers", pa.list_(pa.string()), "For whom; null means all."),
            _c("surfaces", pa.list_(pa.string()), "On which surfaces; null means all."),
            _c("include_segments", pa.list_(pa.string()), "Audience."),
            _c("exclude_segments", pa.list_(pa.string()), "Not this audience."),
            _c("start_ts", TIMESTAMP, "Start.", NotAfter("end_ts"), nullable=False),
            _c("end_ts", TIMESTAMP, "End.", nullable=False),
            _c("budget", pa.float64(), "Budget.", Between(0, 1e12), nullable=False, unit="currency"),
            _c("currency", pa.string(), "ISO 4217.", MaxLength(3)),
            _c("price_model", pa.string(), "Price model."),
            _c("spend_to_date", pa.float64(), "Spent.", Between(0, 1e12), AtMost("budget", 1.0, 0.0), unit="currency"),
            _c("spend_as_of", TIMESTAMP, "When spend was read."),
            _c("pacing", pa.list_(pa.float64()), "Share of the budget per day of the flight."),
            _c("cap_per_user_lifetime", pa.int32(), "Plays per user; 1 if null.", Between(0, 1000)),
            _c("cap_per_day", pa.int32(), "Plays per user and day.", Between(0, 1000)),
            _c("exclude_recent_streamers_days", pa.int32(), "Not for recent listeners; 21 if null.", Between(0, 3650),
               unit="days"),
            _c("min_relevance", pa.float64(), "Least relevance.", Between(0, 1)),
            _c("holdout_pct", pa.float64(), "Share held out.", Between(0, 100), unit="%"),
            _c("disclosure_key", pa.string(), "What the client shows."),
            _c("priority", pa.int32(), "Order among campaigns."),
            _c("status", pa.string(), "State.", OneOf(("draft", "active", "paused", "ended"))),
        ]
    ),
    rows_from=("raw_campaign.item_ids", "raw_campaign.market", "raw_campaign.start_ts", "raw_campaign.end_ts",
               "raw_campaign.status", "item.item_id", "item.rec_eligible", "item.deleted_at", "item.availability"),
)  # fmt: skip

_t = given("tombstone")
TOMBSTONE = Contract(
    name="tombstone",
    version="1.0.0",
    owner="segue-trust",
    description="Something that must disappear; consumed by every stage.",
    key=("entity", "id"),
    shard_by=None,
    schema=pa.schema(
        [
            _t("entity", pa.string(), "What kind of thing.", OneOf(("user", "item", "campaign")), nullable=False),
            _t("id", pa.string(), "Which one.", *ID, nullable=False),
            _t("reason", pa.string(), "Why.", OneOf(("erasure", "takedown", "legal", "exhausted")), nullable=False),
            _t("effective_ts", TIMESTAMP, "From when.", nullable=False),
        ]
    ),
)  # fmt: skip
