"""The models of a road: which date's encoder serves, and what is trained and embedded for it."""

import dataclasses
import datetime

from pipelines import embed, index, ingest, train
from pipelines.embed import Encoder
from pipelines.recipes import SESSION_KNN
from pipelines.road import Ingested, Road, window
from pipelines.runner import Runner, load_manifest
from pipelines.tallies import build_histories
from pipelines.train import ENCODER, TRAIN
from schemas.inputs import ITEM
from schemas.manifest import Manifest
from schemas.models import TRAINING, VOCABULARY, demand_same_space
from transforms.embed.vectors import ITEMS, USERS
from transforms.io.store import Store


def encoder_settings(epochs: int) -> dict[str, object]:
    """Return the settings of the road's encoder: vectors of length 1, and a training of minutes for some thousands of users."""
    training = {"epochs": epochs, "patience": 1, "rate": 3e-3, "always_draw": True}
    return {"scale": 14.0, "layers": 1, "dropout": 0.2, "training": training}


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """What was trained and embedded for a date.

    Attributes:
      vocabulary: of the date; `encoder` has that of the date it was trained for.
      items, users: vectors of the encoder's space.
      index: to search among those of items; None: exact search does.
    """

    vocabulary: Manifest
    encoder: Encoder
    session_knn: Manifest
    items: Manifest
    users: Manifest
    index: Manifest | None = None

    def __post_init__(self) -> None:
        for vectors in filter(None, (self.items, self.users, self.index)):
            demand_same_space(self.encoder.space, embed.space_in(vectors), vectors.path)

    @property
    def trainings(self) -> tuple[Manifest, ...]:
        """Every training the date is served from."""
        return self.encoder.training, self.session_knn

    @property
    def families(self) -> dict[str, Manifest]:
        """What sources that rank by a model rank by, by family."""
        return {ENCODER: self.encoder.training, SESSION_KNN: self.session_knn}

    @property
    def by_name(self) -> dict[str, Manifest]:
        """The manifests by `dataset/qualifier`."""
        every = (self.vocabulary, self.encoder.training, self.session_knn, self.items, self.users, self.index)
        return {f"{manifest.dataset}/{manifest.qualifier}": manifest for manifest in every if manifest}


def training_date(road: Road, events: Manifest) -> datetime.date:
    """Return the date whose encoder serves: the same for `retrain_days` dates in a row, whichever of them runs first.

    It is the date itself while there are not yet as many days of events before the other one.
    """
    days = road.policy.road.retrain_days
    regular = road.date - datetime.timedelta(days=road.date.toordinal() % days)
    first = min((str(file.event_date) for file in window(events, road)), default=road.day)
    enough = datetime.date.fromisoformat(first) + datetime.timedelta(days=days) <= regular
    return regular if enough else road.date


def model_all(runner: Runner, road: Road, raw: Store, ingested: Ingested, histories: Manifest) -> Models:
    """Train what is to be trained and embed what has changed."""
    numbered = runner.run(train.vocabulary(road, histories, ingested.items))
    sessions = runner.run(train.train(road, SESSION_KNN, histories, ingested.items, numbered, refit=True))
    encoder = _encoder(runner, road, raw, ingested)
    vectors = {}
    for what, rows in ((ITEMS, ingested.items), (USERS, histories)):
        before = runner.previous.get(f"{what.embedding}/{what.dataset}")
        vectors[what.dataset] = runner.run(embed.embed(road, runner.store, what, rows, encoder, before))
    items, users = vectors["item"], vectors["history"]
    pays = index.pays(road.policy.road, items, users)
    built = runner.run(index.index(road, items, users, ingested.items)) if pays else None
    return Models(numbered, encoder, sessions, items, users, built)


def _encoder(runner: Runner, road: Road, raw: Store, ingested: Ingested) -> Encoder:
    then = dataclasses.replace(road, date=training_date(road, ingested.events))
    known = _known_encoder(runner, then)
    if known:
        runner.take_over(f"{TRAIN} {ENCODER}", known.training)
        return known
    items = runner.run(ingest.ingest_snapshot(then, raw, ITEM, required=True))
    histories = runner.run(build_histories(then, ingested))
    numbered = runner.run(train.vocabulary(then, histories, items))
    settings = encoder_settings(road.policy.road.encoder_epochs)
    trained = train.train(then, ENCODER, histories, items, numbered, settings, refit=True)
    return Encoder(runner.run(trained), numbered)


def _known_encoder(runner: Runner, then: Road) -> Encoder | None:
    """Return the encoder the last good road used, if it was trained for the same date in the same way.

    Its inputs may have changed since: a listen that came late or a title mended is no reason to train anew, and to embed
    everything anew for it. To train on mended data, run its date again, and those after it.
    """
    training = runner.previous.get(f"{TRAINING.name}/{ENCODER}")
    if training is None or training.date != then.day or training.code_version != runner.code_version:
        return None
    settings = encoder_settings(then.policy.road.encoder_epochs)
    same = train.training_config(then, ENCODER, settings, refit=True)
    if any(training.config.get(name) != value for name, value in same.items()):
        return None
    (numbered,) = [ref.path for ref in training.inputs if ref.name == VOCABULARY.name]
    return Encoder(training, load_manifest(runner.store, numbered))
