"""What the streaming job writes beside candidate sets."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, column
from schemas.inputs import ID
from schemas.rules import Between, MaxLength, OneOf, Required

JSON, AVRO = "json", "avro"
STAGES = ("decode", "merge", "sets")
PASSED, FAILED, BROKEN, UNCHECKED = "passed", "failed", "broken", "unchecked"

DEAD_LETTER = Contract(
    name="dead_letter",
    version="1.0.0",
    owner="segue-stream",
    description="A message that changed nothing, with its cause: kept for 14 days, none of an erased user.",
    key=("message_id", "stage"),
    shard_by=None,
    schema=pa.schema(
        [
            column("message_id", pa.string(), "Id the broker gave the message; of a set that could not be made, a digest "
                   "of user and sequence.", rules=ID),
            column("stage", pa.string(), "Step that gave it up.", rules=(OneOf(STAGES),)),
            column("error_class", pa.string(), "Rule it broke, outcome, or class of the exception.", rules=(Required(),)),
            column("detail", pa.string(), "What was expected and what came.", nullable=True),
            column("attempts", pa.int32(), "How often it was tried.", rules=(Between(1, 1000),)),
            column("payload", pa.string(), "Base64 of the bytes as they came; null where no message is at fault.",
                   nullable=True),
            column("encoding", pa.string(), "What the bytes are.", rules=(OneOf((JSON, AVRO)),)),
            column("event_id", pa.string(), "Event, where it could be read.", nullable=True),
            column("user_id", pa.string(), "User, where it could be read: erasure asks for it.", nullable=True),
            column("published_ts", TIMESTAMP, "When the broker took the message.", nullable=True),
            column("code_version", pa.string(), "Code that gave it up.", rules=ID),
        ]
    ),
)  # fmt: skip

VERDICT = Contract(
    name="verdict",
    version="1.0.0",
    owner="segue-stream",
    description="What the checks of the sets published in one minute came to.",
    key=("minute", "part"),
    shard_by=None,
    schema=pa.schema(
        [
            column("minute", TIMESTAMP, "Minute in which the sets were published."),
            column("part", pa.int32(), "Tells the verdicts of a minute apart: whenever the stream started again within it, of "
                   "groups of listeners.", rules=(Between(0, 1e6),)),
            column("outcome", pa.string(), "Failed: a critical check did. Broken: one could not run. Unchecked: the sets did "
                   "not reach the checks.", rules=(OneOf((PASSED, FAILED, BROKEN, UNCHECKED)),)),
            column("sets", pa.int64(), "Sets that were checked.", rules=(Between(0, 1e9),)),
            column("checks", pa.int32(), "Checks that were asked for.", rules=(Between(0, 1e4),)),
            column("failed", pa.list_(pa.string()), "Names of those that did not pass.", rules=(MaxLength(10_000),)),
            column("severity", pa.string(), "The worst among them; null where all passed.",
                   rules=(OneOf(("critical", "warning")),), nullable=True),
            column("bundles", pa.list_(pa.string()), "What the sets were made from.", rules=(MaxLength(1_000),)),
            column("detail", pa.string(), "What was found, and the next step.", nullable=True),
            column("code_version", pa.string(), "Code that judged.", rules=ID),
        ]
    ),
)  # fmt: skip
