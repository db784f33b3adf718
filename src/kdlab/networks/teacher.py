"""An observed network, and the frozen teacher: never trained, saved, wrapped or converted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Example, Fields, Input, Knowledge, raised
from kdlab.core.reading import Reader
from kdlab.networks.observer import ROW_PER_SAMPLE, Observer, Taps


class Observed:
    """A network with its taps, and how its rows are read. Not a Module: holding one registers nothing.

    deferring: whether its logits wait until they are read; see `deferring`.
    """

    deferring = False

    def __init__(self, name: str, network: nn.Module, taps: Taps, reader: Reader = ROW_PER_SAMPLE) -> None:
        self.name = name
        self.network = network
        self.taps = taps
        self.reader = reader
        self._observer = Observer(network, taps, Fields(), reader)

    @property
    def offers(self) -> Fields:
        """What a head may request from this network."""
        return self.taps.offers

    def listen(self, fields: Fields) -> None:
        """Hooks what `fields` request, replacing earlier hooks. Before `network.compile()`, not after."""
        self.close()
        self._observer = Observer(self.network, self.taps, fields, self.reader)
        self._observer.__enter__()

    def close(self) -> None:
        """Removes the hooks."""
        self._observer.__exit__(None, None, None)

    def __call__(self, batch: Batch) -> Knowledge:
        """The network's knowledge of a batch."""
        return self._observer(batch, defer=self.deferring)

    def example(self, batch: Batch) -> Example:
        """A dry run in eval mode, which changes no statistics and no random state."""
        return replace(self._observer.example(batch), name=self.name)


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
        reader: Reader = ROW_PER_SAMPLE,
        *,
        renormalise: tuple[Tensor, Tensor] | None = None,
        size: int | None = None,
        classes: Sequence[int | None] | None = None,
    ) -> None:
        network.eval().requires_grad_(False)
        super().__init__(name, network, taps, reader)
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
        """What a head may request; a classifier only where it has all of the student's classes."""
        offers = super().offers
        return offers if self._order is None else replace(offers, classifier=self._classifier is not None)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves and casts the teacher, which is outside the module tree."""
        self.network.to(device=device, dtype=dtype)
        if self._renormalise is not None:
            scale, shift = self._renormalise
            self._renormalise = (scale.to(device), shift.to(device))
        if self._order is not None:
            self._order = self._order.to(device)
        if self._classifier is not None:
            self._classifier.to(device=device, dtype=dtype)

    def __call__(self, batch: Batch) -> Knowledge:
        with torch.no_grad():
            return self._ordered(super().__call__(self._own(batch)))

    def example(self, batch: Batch) -> Example:
        example = super().example(self._own(batch))
        classifier = self._classifier if self._order is not None and example.classifier else example.classifier
        return replace(example, knowledge=self._ordered(example.knowledge), classifier=classifier)

    def _ordered(self, knowledge: Knowledge) -> Knowledge:
        return knowledge if self._order is None else knowledge.mapped(lambda logits: logits[:, self._order])

    def _own(self, batch: Batch) -> Batch:
        return {**batch, "input": self.prepared(batch["input"])}

    def prepared(self, input: Input) -> Input:
        """The input in this teacher's normalisation and resolution, where it is pictures."""
        if not isinstance(input, Tensor):
            return input
        if self._renormalise is not None:
            scale, shift = self._renormalise
            input = input * scale.to(input.dtype) + shift.to(input.dtype)
        if self._size is not None and input.shape[-1] != self._size:
            side = (self._size, self._size)  # torch cannot antialias half types on the CPU
            input = interpolate(raised(input), size=side, mode="bilinear", antialias=True).to(input.dtype)
        return input


@contextmanager
def deferring(networks: Sequence[Observed], wanted: bool = True) -> Iterator[None]:
    """The logits of these networks wait until they are read, where a network lets them; see `Observer`."""
    if not wanted:
        yield
        return
    try:
        for network in networks:
            network.deferring = True
        yield
    finally:
        for network in networks:
            network.deferring = False


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
