"""Options all commands share, and the collaborators built from them. The one place that reads the clock."""

import argparse
import datetime
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipelines.batch import last_good
from pipelines.progress import Console
from pipelines.runner import Runner
from pipelines.version import code_version
from schemas.policy import Policy
from transforms.devices import CPU, DEVICES
from transforms.embed.language import LanguageModel
from transforms.io.store import Store
from transforms.io.temporary import sweep
from validation.lineage import LineageLog, PipelineRun
from validation.waivers import Waiver, parse_waivers

DEFAULT_SHARDS = 8
POLICY_FILE = Path(__file__).with_name("surfaces.toml")


def now() -> datetime.datetime:
    """Return the time; nothing but lineage and log lines depends on it."""
    return datetime.datetime.now(datetime.UTC)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without taking the interpreter apart.

    With torch loaded, DuckDB's module would report its own tables as leaked there, forty lines after the last of ours.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def iso_date(text: str) -> datetime.date:
    """Parse a `YYYY-MM-DD` argument."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a date as YYYY-MM-DD, got {text!r}") from None


def positive(text: str) -> int:
    """Parse a number of at least one."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs the road."""
    parser.add_argument(
        "--root", default=os.environ.get("ROOT", ".segue"), help="folder or gs:// address everything is written under"
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=DEFAULT_SHARDS,
        help="shards per dataset; about 20,000 users, a million events or 40,000 pairs of a played item and a market each",
    )
    parser.add_argument(
        "--surface", action="append", choices=("home", "now_playing"), help="only this surface (may be repeated)"
    )
    parser.add_argument("--device", default=CPU, choices=DEVICES, help="what trains and embeds (cpu)")
    parser.add_argument("--text_model", help="folder of a sentence-transformers model that reads the words of items")
    parser.add_argument("--policy", type=Path, default=POLICY_FILE, help="policy file")
    parser.add_argument("--waivers", type=Path, help="waivers file (default: waivers.toml under the root)")


def read_language(options: argparse.Namespace) -> LanguageModel | None:
    """Look at the language model that was asked for.

    Raises:
      ValueError: it is none, or cannot be read here.
    """
    return LanguageModel.at(options.text_model) if options.text_model else None


def read_policy(path: Path) -> Policy:
    """Read the policy file.

    Raises:
      ValueError: it is no TOML, or says something unknown or contradictory.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    return Policy.from_dict(tables, path.name)


def parse_beam(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of a command, and those of the Beam runner it names; without one, others are a typing error."""
    options, beam_args = parser.parse_known_args(argv)
    if beam_args and not any(one.startswith("--runner") for one in beam_args):
        parser.error(f"unknown arguments: {' '.join(beam_args)}; those of a Beam runner go with --runner=")
    return options, beam_args


def build_runner(store: Store, day: str, beam_args: list[str], waivers: Path | None, config: dict) -> Runner:
    """Build the stage runner of one road, after sweeping up what killed runs left in the folder of temporary files."""
    started, version = now(), code_version()
    sweep()
    log = f"lineage/date={day}/{started:%Y%m%dT%H%M%S%f}.jsonl"
    lineage = LineageLog(
        append=lambda line: store.append_line(log, line),
        root=store.root,
        clock=now,
        http_url=os.environ.get("OPENLINEAGE_URL"),
    )
    return Runner(
        store=store,
        code_version=version,
        lineage=lineage,
        parent=PipelineRun("road", day, started, version, config),
        console=Console(),
        waivers=_waivers(store, waivers),
        previous=last_good(store, day),
        beam_args=beam_args,
    )


def _waivers(store: Store, path: Path | None) -> list[Waiver]:
    if path is not None:
        return parse_waivers(path.read_text(encoding="utf-8"), str(path))
    if store.exists("waivers.toml"):
        return parse_waivers(store.read_bytes("waivers.toml").decode(), f"{store.root}/waivers.toml")
    return []
