"""Every model family by name, in one form. Adding one is a function here and a module beside this one.

Entries are functions because what they import is heavy, torch for two seconds and 200 MB: a worker pays for what it uses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import polars as pl

from transforms.embed.interactions import Interactions

USER, SESSION = "user", "session"


class Model(Protocol):
    """A fitted family."""

    def score(self, contexts: Interactions) -> np.ndarray:
        """Return `(num_contexts, num_items) float32`, higher is better; a context of no items has zeros."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything it consists of."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOut:
    """Contexts, and what came next in each: a row of targets per row of contexts."""

    contexts: Interactions
    targets: Interactions


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingData:
    """What a family is fitted on.

    Attributes:
      interactions: rows in order of their last listen.
      items: `item_id`, `item_type`, `title`, `description`, `genres`, `artists`, `languages`, in order of item numbers.
      sentences: what a language model makes of the items, see `ItemFeatures`; None without one.
      held_out: of a later time than `interactions`; what to stop early on, None where all is decided.
    """

    interactions: Interactions
    items: pl.DataFrame
    held_out: HeldOut | None
    sentences: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """A model, the settings with what was settled on held-out data, and `(epoch, name, value)` figures on the way."""

    model: Any
    settings: Any
    figures: list[tuple[int, str, float]]


class Watch(Protocol):
    """Where a long fit says how far it is, and keeps what it needs to go on after a kill."""

    @property
    def device(self) -> str:
        """What to fit on: `cpu` or `cuda`."""

    def clock(self) -> float:
        """Return seconds that only grow."""

    def progress(self, line: str) -> None:
        """Take one line for people."""

    def save(self, state: bytes) -> None:
        """Keep a state in the place of the one before."""

    def load(self) -> bytes | None:
        """Return the state that was kept; None where there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """How a family is fitted and read back.

    Attributes:
      settings: its dataclass. `grid`: what a program tries for a catalogue of so many items.
      unit: whether a row is all of a user's history or one session.
      listens: the columns of a history it learns from.
      settles: whether it needs held-out data to settle something, when to stop for example.
      most_rows: rows above which it is not to be fitted; None: any number.
    """

    fit: Callable[[TrainingData, Any, int, Watch], Fitted]
    load: Callable[[dict[str, np.ndarray]], Any]
    settings: Callable[..., Any]
    grid: Callable[[int], tuple[Any, ...]]
    unit: str = USER
    listens: tuple[str, ...] = ("positives",)
    settles: bool = False
    most_rows: int | None = None


def _any(settings: tuple[Any, ...]) -> Callable[[int], tuple[Any, ...]]:
    """Return a grid that is the same for catalogues of any size."""
    return lambda num_items: settings


def _plain(fit: Callable[..., Model]) -> Callable[[TrainingData, Any, int, Watch], Fitted]:
    """Return the fit of a family that learns from interactions in one go."""
    return lambda data, settings, seed, watch: Fitted(fit(data.interactions, settings, seed), settings, [])


def spectral() -> Family:
    """Spectral factors of who listened to what: an inner-product space in seconds."""
    from transforms.embed import spectral as module

    return Family(
        _plain(module.fit_spectral), module.Spectral.from_arrays, module.SpectralSettings, _any(module.SPECTRAL_GRID)
    )


def session_knn() -> Family:
    """Sessions like this one, and what came near the shared items in them."""
    from transforms.embed import session_knn as module

    return Family(
        _plain(module.fit_session_knn), module.SessionKnn.from_arrays, module.SessionKnnSettings,
        _any(module.SESSION_KNN_GRID), SESSION,
    )  # fmt: skip


def item_graph() -> Family:
    """What follows what, with decay over gaps and steps back."""
    from transforms.embed import item_graph as module

    return Family(
        _plain(module.fit_item_graph),
        module.ItemGraph.from_arrays,
        module.ItemGraphSettings,
        _any(module.ITEM_GRAPH_GRID),
    )


def content() -> Family:
    """What reads alike."""
    from transforms.embed import content as module
    from transforms.embed.text import item_features

    def fit(data: TrainingData, settings: Any, seed: int, watch: Watch) -> Fitted:
        return Fitted(module.fit_content(item_features(data.items, subword_lengths=()), settings, seed), settings, [])

    return Family(fit, module.Content.from_arrays, module.ContentSettings, _any(module.CONTENT_GRID))


def encoder() -> Family:
    """One space for items, histories and sessions."""
    from transforms.embed import encoder_model as module
    from transforms.embed.encoder_family import fit, grid, settings_from

    listens = ("positives", "skips")
    return Family(fit, module.EncoderModel.from_arrays, settings_from, grid, listens=listens, settles=True)


def implicit_als() -> Family:
    """Factors by weighted least squares, what was not listened to weighing little."""
    from transforms.embed import implicit_als as module

    return Family(
        _plain(module.fit_implicit_als), module.ImplicitAls.from_arrays, module.AlsSettings, _any(module.ALS_GRID)
    )


def graph_filter() -> Family:
    """A linear filter over who listened to what, no inner product."""
    from transforms.embed import graph_filter as module

    return Family(
        _plain(module.fit_graph_filter), module.GraphFilter.from_arrays, module.GraphFilterSettings,
        _any(module.GRAPH_FILTER_GRID),
    )  # fmt: skip


def ease() -> Family:
    """Regression of every item on all others, in closed form."""
    from transforms.embed import ease as module

    return Family(
        _plain(module.fit_ease), module.Ease.from_arrays, module.EaseSettings, _any(module.EASE_GRID),
        most_rows=module.MOST_ROWS,
    )  # fmt: skip


def evidence() -> Family:
    """Counts that describe candidates others propose."""
    from transforms.embed import evidence as module

    return Family(
        lambda data, settings, seed, watch: Fitted(module.fit_evidence(data.interactions), settings, []),
        module.Evidence.from_arrays, NoSettings, _any((NoSettings(),)),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class NoSettings:
    """Nothing to choose."""


FAMILIES: dict[str, Callable[[], Family]] = {
    "content": content,
    "ease": ease,
    "encoder": encoder,
    "evidence": evidence,
    "graph_filter": graph_filter,
    "implicit_als": implicit_als,
    "item_graph": item_graph,
    "session_knn": session_knn,
    "spectral": spectral,
}
