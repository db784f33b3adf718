"""Networks on one trunk: they share their first modules, and a gate mixes their logits.

Lan, Zhu, Gong. Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018, equations 1 to 3.

    z = Σ g_i z_i,   g = softmax(ReLU(BN(W f))), f the pooled map that the branches begin from
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Fields
from kdlab.core.reading import logits_of
from kdlab.models.pooling import pooled
from kdlab.networks.observer import Observer, Taps

T = TypeVar("T")


class Gate(nn.Module):
    """The weight of each branch, per sample, from the shared map."""

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, stage: Tensor, logits: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
        """The map [B, D, H, W] or tokens [B, L, D], and each branch's logits [B, C], to the mixed logits [B, C].

        Args:
            stage: the map or the tokens.
            logits: of each branch.
            valid: [B, L] bool, the tokens that are not padding; None: all.
        """
        weights = self.norm(self.linear(pooled(stage, valid))).relu().softmax(1)
        mixed: Tensor = (weights[:, :, None] * torch.stack(tuple(logits), dim=1)).sum(1)
        return mixed


class Branches(nn.Module):
    """Networks of one architecture; the others use the first modules of the first.

    Args:
        networks: two or more; all but the first lose their own.
        shared: names of the modules that they share, in the order of running.
        tap: the stage that the gate reads, the output of the last of those.
        width: its channels.
    """

    def __init__(self, networks: Sequence[nn.Module], shared: Sequence[str], tap: str, width: int) -> None:
        super().__init__()
        for network in networks[1:]:
            share(networks[0], network, shared)
        self.networks = nn.ModuleList(networks)
        self.gate = Gate(width, len(networks))
        self._shared, self._tap = tuple(shared), tap

    def each(self, asks: Sequence[Callable[[], T]]) -> list[T]:
        """The outputs of the networks, run in turn; the shared modules run once, for the first.

        Networks that were compiled run whole, every time.
        """
        if any(network._compiled_call_impl is not None for network in self.networks):
            return [ask() for ask in asks]
        modules = [self.networks[0].get_submodule(name) for name in self._shared]
        tapes: list[list[Any]] = [[] for _ in modules]

        def lent(place: int, output: Any) -> Any:
            # The branches may overwrite their input in place.
            return output.clone() if place == len(modules) - 1 and isinstance(output, Tensor) else output

        def record(place: int, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
            tapes[place].append(forward(*given, **named))
            return lent(place, tapes[place][-1])

        def replay(place: int, tape: Iterator[Any], *given: Any, **named: Any) -> Any:
            return lent(place, next(tape))

        with _instead(modules, [partial(record, place, module.forward) for place, module in enumerate(modules)]):
            answers = [asks[0]()]
        for ask in asks[1:]:
            with _instead(modules, [partial(replay, place, iter(tape)) for place, tape in enumerate(tapes)]):
                answers.append(ask())
        return answers

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """What each network receives, [B, ...], to the mixed logits [B, C]."""
        first, *others = self.networks
        with Observer(first, Taps(stages=(self._tap,)), Fields(stages="all")) as observer:
            batch = {"input": named or given[0]}
            asks = [partial(observer, batch), *(partial(network, *given, **named) for network in others)]
            student, *answers = self.each(asks)
        logits = (student.logits, *(logits_of(answer) for answer in answers))
        mixed: Tensor = self.gate(student.stage(0), logits, student.valid)
        return mixed


def share(network: nn.Module, other: nn.Module, modules: Sequence[str]) -> None:
    """Replaces modules of another network of the same architecture by those of `network`, with the tensors directly
    around them."""
    for name in modules:
        other.set_submodule(name, network.get_submodule(name))
        parts = name.split(".")
        for depth in range(len(parts)):
            around = ".".join(parts[:depth])
            ours, theirs = network.get_submodule(around), other.get_submodule(around)
            theirs._parameters.update(ours._parameters)
            theirs._buffers.update(ours._buffers)


@contextmanager
def _instead(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    before = [vars(module).get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            vars(module).pop("forward", None)
            vars(module).update({} if own is None else {"forward": own})
