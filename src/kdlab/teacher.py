"""A network that can be asked what it knows, and the frozen teacher: never trained, saved, wrapped or converted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdlab.errors import UsageError
from kdlab.knowledge import Example, Fields, Knowledge, raised
from kdlab.observe import Observer, Taps
from kdlab.store import State


class Observed:
    """A network with its taps. Not a Module: holding one registers nothing."""

    def __init__(self, name: str, network: nn.Module, taps: Taps) -> None:
        self.name = name
        self.network = network
        self.taps = taps
        self._observer = Observer(network, taps, Fields())

    @property
    def offers(self) -> Fields:
        """What a head may ask of this network."""
        return self.taps.offers

    def listen(self, fields: Fields) -> None:
        """Hooks what `fields` ask, in place of what was hooked before. Before `network.compile()`, not after."""
        self.close()
        self._observer = Observer(self.network, self.taps, fields)
        self._observer.__enter__()

    def close(self) -> None:
        """Takes the hooks away."""
        self._observer.__exit__(None, None, None)

    def __call__(self, input: Tensor) -> Knowledge:
        """What the network says about a batch [B, ...]."""
        return self._observer(input)

    def example(self, input: Tensor) -> Example:
        """A dry run in eval mode, which moves no statistic and no random number."""
        return replace(self._observer.example(input), name=self.name)


class Teacher(Observed):
    """A frozen network: eval mode, no gradients, with its own input normalisation and resolution.

    Args:
        renormalise: scale and shift from the data set's normalisation to its own, see `renormalisation`.
        size: its input side, where it is not the data set's.
        classes: per class of the student, the teacher's class that means the same, or None: logits are brought
            into the student's order, and classes that the teacher does not know are left out on both sides.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        taps: Taps,
        *,
        renormalise: tuple[Tensor, Tensor] | None = None,
        size: int | None = None,
        classes: Sequence[int | None] | None = None,
    ) -> None:
        network.eval().requires_grad_(False)
        super().__init__(name, network, taps)
        self._renormalise = renormalise
        self._size = size
        self.known: Tensor | None = None
        self._order: Tensor | None = None
        self._classifier: nn.Linear | None = None
        if classes is not None:
            pairs = [(ours, theirs) for ours, theirs in enumerate(classes) if theirs is not None]
            self.known = torch.tensor([ours for ours, _ in pairs])
            self._order = torch.tensor([theirs for _, theirs in pairs])
            if len(pairs) == len(classes) and taps.classifier is not None:
                self._classifier = _rows_of(network.get_submodule(taps.classifier), self._order)

    @property
    def offers(self) -> Fields:
        """What a head may ask; a classifier only where it tells all of the student's classes apart."""
        offers = super().offers
        return offers if self._order is None else replace(offers, classifier=self._classifier is not None)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves and casts the teacher; it lies outside the module tree that would do so."""
        self.network.to(device=device, dtype=dtype)
        if self._renormalise is not None:
            scale, shift = self._renormalise
            self._renormalise = (scale.to(device), shift.to(device))
        if self._order is not None:
            self._order = self._order.to(device)
        if self._classifier is not None:
            self._classifier.to(device=device, dtype=dtype)

    def __call__(self, input: Tensor) -> Knowledge:
        with torch.no_grad():
            return self._ordered(super().__call__(self.prepared(input)))

    def example(self, input: Tensor) -> Example:
        example = super().example(self.prepared(input))
        classifier = self._classifier if self._order is not None and example.classifier else example.classifier
        return replace(example, knowledge=self._ordered(example.knowledge), classifier=classifier)

    def _ordered(self, knowledge: Knowledge) -> Knowledge:
        return knowledge if self._order is None else replace(knowledge, logits=knowledge.logits[:, self._order])

    def prepared(self, input: Tensor) -> Tensor:
        """The batch as this teacher was trained to see it."""
        if self._renormalise is not None:
            scale, shift = self._renormalise
            input = input * scale.to(input.dtype) + shift.to(input.dtype)
        if self._size is not None and input.shape[-1] != self._size:
            side = (self._size, self._size)  # torch has no antialiasing of half types on CPUs
            input = interpolate(raised(input), size=side, mode="bilinear", antialias=True).to(input.dtype)
        return input


def _rows_of(classifier: nn.Module, order: Tensor) -> nn.Linear:
    assert isinstance(classifier, nn.Linear), "the tap of a classifier names a linear layer"
    made = nn.Linear(classifier.in_features, len(order), bias=classifier.bias is not None).requires_grad_(False)
    made.weight.copy_(classifier.weight[order])
    if classifier.bias is not None:
        made.bias.copy_(classifier.bias[order])
    return made.to(classifier.weight)


def renormalisation(
    mean: Sequence[float], std: Sequence[float], own_mean: Sequence[float] | None, own_std: Sequence[float] | None
) -> tuple[Tensor, Tensor] | None:
    """Scale and shift [C, 1, 1] that turn input normalised one way into input normalised another; None if alike.

    With x = (p − mean) / std, a teacher's own input is (p − own_mean) / own_std = x · scale + shift.
    """
    theirs = (list(own_mean or mean), list(own_std or std))
    if theirs == (list(mean), list(std)):
        return None
    ours_mean, ours_std = torch.tensor(mean), torch.tensor(std)
    own = torch.tensor(theirs[0]), torch.tensor(theirs[1])
    if own[0].shape != ours_mean.shape or own[1].shape != ours_std.shape:
        raise UsageError(f"teacher.mean and teacher.std: expected {len(mean)} numbers each, one per channel")
    return (ours_std / own[1])[:, None, None], ((ours_mean - own[0]) / own[1])[:, None, None]


def load_checkpoint(file: Path, network: nn.Module, key: str = "teacher.checkpoint") -> None:
    """Loads a user's own weights into a network: safetensors, or a state dict read with `weights_only`.

    Raises:
        UsageError: where the file is missing, truncated, carries code, or fits another network.
    """
    state = _read(file, key)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
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
    network.load_state_dict(state, strict=False)


def _read(file: Path, key: str) -> State:
    from pickle import UnpicklingError

    from safetensors.torch import load_file

    if not file.is_file():
        raise UsageError(f"{key}={file}: there is no such file")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of what it then refuses
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "truncated" in str(error) or "EOF" in str(error) or "pickle data" in str(error):
            raise UsageError(f"{key}={file}: the file is truncated or no checkpoint") from error
        raise UsageError(
            f"{key}={file}: the file carries code, not weights alone; save the state dict with safetensors instead"
        ) from error
    except Exception as error:  # unpickling what is no pickle raises whatever it stumbles over
        raise UsageError(f"{key}={file}: the file is truncated or no checkpoint") from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{key}={file}: expected a state dict, names and tensors, as network.state_dict() gives it")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
