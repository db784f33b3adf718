"""Weights on disk: written, hashed, and read without executing code in a file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdlab.core.errors import UsageError

StateDict = dict[str, Tensor]
"""A state dict: names of parameters and buffers, and their tensors."""

NETWORK_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""What makes the network of a folder in transformers' layout; others are its tokenizer's, or for people."""


def save_weights(weights: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a state dict as safetensors; a tensor of several names, as tied embeddings are, is written once.

    Raises:
        OSError: where it cannot be written, which safetensors' own writing does not say.
    """
    file.write_bytes(packed(weights, metadata))


def packed(weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes that `save_weights` writes; a tensor's further names are metadata, as in safetensors' `save_model`."""
    others = _tied(weights)
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items() if name not in others}
    return save(kept, {**(metadata or {}), **others} or None)


def cloned(weights: Mapping[str, Tensor]) -> StateDict:
    """A state dict with memory of its own; what shares memory still does."""
    others = _tied(weights)
    copies = {name: value.detach().clone() for name, value in weights.items() if name not in others}
    return {name: copies[others.get(name, name)] for name in weights}


def load_weights(file: Path) -> StateDict:
    """A state dict that `save_weights` wrote, on the CPU, with all its names.

    Raises:
        OSError, SafetensorError: where the file is not what was written.
    """
    with safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
        others = opened.metadata() or {}
    return state | {name: state[first] for name, first in others.items() if first in state}


def _tied(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that an earlier name has already, and that name."""
    first: dict[tuple[object, ...], str] = {}
    others = {}
    for name, value in weights.items():
        if value.numel():
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            if (known := first.setdefault(place, name)) != name:
                others[name] = known
    return others


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 of what makes the network of a folder in transformers' layout: its config and its safetensors."""
    files = {path for pattern in NETWORK_FILES for path in folder.glob(pattern)}
    own = hashlib.sha256()
    for file in sorted(files):
        own.update(f"{file.name} {hash_file(file)}\n".encode())
    return own.hexdigest()


def load_checkpoint(file: Path, network: nn.Module, key: str = "teacher.checkpoint") -> None:
    """Loads a user's own weights into a network: safetensors, or a state dict read with `weights_only`.

    Raises:
        UsageError: where the file is missing, truncated, carries code, fits another network, or holds NaN.
    """
    state = _read(file, key)
    expected = network.state_dict()
    tied = {name: {name, first} for name, first in _tied(expected).items()}
    tied |= {first: names for names in tied.values() for first in names}
    found = {name for name in expected if state.keys() & tied.get(name, {name})}
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    wrong = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    what = type(network).__name__
    if wrong:
        name = wrong[-1]
        raise UsageError(
            f"{key}={file}: its {name} is {tuple(state[name].shape)}, but {what} has {tuple(expected[name].shape)}; "
            "expected weights of the same architecture and number of classes"
        )
    if missing or unknown:
        raise UsageError(
            f"{key}={file}: not weights of this {what}: {len(missing)} entries are missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])})"
        )
    trained = dict(network.named_parameters())  # a buffer may be infinite, as the mask of a causal network
    if broken := [name for name, value in state.items() if name in trained and not value.isfinite().all()]:
        raise UsageError(f"{key}={file}: {broken[0]} holds NaN or infinity; expected the weights of a trained network")
    network.load_state_dict(state, strict=False)


def _read(file: Path, key: str) -> StateDict:
    from pickle import UnpicklingError

    from safetensors.torch import load_file

    if not file.is_file():
        raise UsageError(f"{key}={file}: there is no such file")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about what it then refuses
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "truncated" in str(error) or "EOF" in str(error) or "pickle data" in str(error):
            raise UsageError(f"{key}={file}: the file is truncated or not a checkpoint") from error
        raise UsageError(
            f"{key}={file}: the file carries code, not weights alone; save the state dict with safetensors instead"
        ) from error
    except Exception as error:  # unpickling a damaged file can raise anything
        raise UsageError(f"{key}={file}: the file is truncated or not a checkpoint") from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{key}={file}: expected a state dict, names and tensors, as network.state_dict() gives it")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
