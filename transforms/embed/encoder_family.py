"""The encoder as one family among others: what it starts from, what it settles on held-out data, and what it says."""

import dataclasses
from collections.abc import Callable
from math import isnan
from typing import Any

from transforms.embed.cooccurrence import cooccurrence_factors
from transforms.embed.encoder_model import EncoderSettings, fit_encoder
from transforms.embed.families import Fitted, HeldOut, TrainingData, Watch
from transforms.embed.text import item_features
from transforms.embed.training_terms import (
    FULL_SOFTMAX_ITEMS,
    Examples,
    Progress,
    Surroundings,
    TrainingSettings,
    Validation,
)

START_WINDOW = 5
SMALL = EncoderSettings()
LARGE = EncoderSettings(dim=128, layers=1, heads=2, dropout=0.4, scale=14.0, training=TrainingSettings(epochs=4))
SAID_EVERY_S = 2.0


def grid(num_items: int) -> tuple[EncoderSettings, ...]:
    """Return what to try: one setting, as a fit takes minutes; a catalogue too large for a full softmax wants cosines."""
    return (LARGE,) if num_items > FULL_SOFTMAX_ITEMS else (SMALL,)


def settings_from(**fields: Any) -> EncoderSettings:
    """Return settings from JSON; what is left out has its default."""
    return EncoderSettings(**{**fields, "training": TrainingSettings(**fields.get("training", {}))})


def fit(data: TrainingData, settings: EncoderSettings, seed: int, watch: Watch) -> Fitted:
    """Fit an encoder; with held-out data, the settings returned say after which epoch to stop.

    Identities start from what is listened to together where the catalogue is too large for a full softmax: there each
    item is seen rarely.
    """
    large = data.interactions.num_items > FULL_SOFTMAX_ITEMS
    start = cooccurrence_factors(data.interactions, START_WINDOW, settings.dim, seed) if large else None
    around = Surroundings(device=watch.device, checkpoint=watch, progress=_telling(watch), clock=watch.clock)
    validation = _validation(data.held_out) if data.held_out else None
    examples = Examples(data.interactions, start=start)
    features = item_features(data.items, sentences=data.sentences)
    model = fit_encoder(examples, features, settings, seed, validation, around)
    figures = [
        (int(line["epoch"]), name, float(line[name]))
        for line in model.log
        for name in ("loss", "validation")
        if line[name] is not None
    ]
    settled = dataclasses.replace(settings, training=dataclasses.replace(settings.training, stop_at=model.epochs))
    return Fitted(model, settled, figures)


def _validation(held_out: HeldOut) -> Validation:
    return Validation(held_out.contexts, held_out.targets.items.astype("int64"))


def _telling(watch: Watch) -> Callable[[Progress], None]:
    last = [float("-inf")]

    def tell(progress: Progress) -> None:
        if watch.clock() - last[0] < SAID_EVERY_S:
            return
        last[0] = watch.clock()
        judged = "" if isnan(progress.validation) else f" validation {progress.validation:.4f},"
        watch.progress(
            f"epoch {progress.epoch}, loss {progress.loss:.3f},{judged} {progress.samples_per_s:,.0f} samples/s,"
            f" {progress.seconds_left:,.0f} s left"
        )

    return tell
