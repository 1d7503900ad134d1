"""In place of a trained model: arithmetic whose answers move with everything a model could have learnt from."""

import numpy as np

from schemas.models import EMBEDDING_DIM


class ToyModel:
    """In place of an encoder: vectors that tell contents, identities and orders of plays apart."""

    def embed_items(self, numbers, features):
        spread = np.zeros((len(features), EMBEDDING_DIM), np.float32)
        rows = np.repeat(np.arange(len(features)), np.diff(features.starts))
        np.add.at(spread, (rows, features.tokens % (EMBEDDING_DIM - 1)), features.weights)
        spread[:, -1] = numbers + 2
        return spread

    def encode(self, contexts):
        found = np.zeros((len(contexts), EMBEDDING_DIM), np.float32)
        ages = contexts.starts[1:][contexts.rows] - np.arange(len(contexts.items))
        np.add.at(found, (contexts.rows, contexts.items), contexts.weights / ages)
        return found
