"""The state of a training run as bytes: tensors of the encoder and its optimisers, and a journal of plain values."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

_JOURNAL = "journal"


def to_bytes(tensors: Mapping[str, torch.Tensor], journal: Mapping[str, Any]) -> bytes:
    """Return tensors and a journal as one safetensors file; equal states give equal bytes."""
    text = np.frombuffer(json.dumps(journal, sort_keys=True).encode(), np.uint8).copy()
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    written: bytes = save(contiguous | {_JOURNAL: torch.from_numpy(text)})
    return written


def from_bytes(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what `to_bytes` was given."""
    tensors = load(data)
    journal = json.loads(tensors.pop(_JOURNAL).numpy().tobytes())
    return tensors, journal


def snapshot(encoder: torch.nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Return copies of all that a step changes."""
    found = {f"encoder.{name}": value.clone() for name, value in encoder.state_dict().items()}
    for number, optimiser in enumerate(optimisers):
        for parameter, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                found[f"optimiser.{number}.{parameter}.{name}"] = torch.as_tensor(value).clone()
    return found


def restore(
    encoder: torch.nn.Module, optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put the copies of `snapshot` back."""
    encoder.load_state_dict(part(tensors, "encoder."))
    for number, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Any]] = {}
        for name, value in part(tensors, f"optimiser.{number}.").items():
            parameter, key = name.split(".", 1)
            # SparseAdam counts its steps in a plain int, AdamW in a tensor.
            plain = key == "step" and isinstance(optimiser, torch.optim.SparseAdam)
            state.setdefault(int(parameter), {})[key] = int(value) if plain else value.clone()
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
