"""Arrays of a model as one safetensors file, with what is said of them in its header."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

_ABOUT = "segue"


def pack(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file of arrays; equal arrays and words, equal bytes.

    Args:
      about: JSON.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    return safetensors.numpy.save(whole, {_ABOUT: json.dumps(dict(about), sort_keys=True)})


def unpack(body: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a file and what is said of them.

    Raises:
      ValueError: not such a file; `where` names it.
    """
    try:
        size = int.from_bytes(body[:8], "little")
        about = json.loads(body[8 : 8 + size])["__metadata__"][_ABOUT]
        return safetensors.numpy.load(body), json.loads(about)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} holds no weights this code can read: {error}; train the model again") from error
