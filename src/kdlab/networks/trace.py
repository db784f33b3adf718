"""A record of one dry run: which modules ran, on which tensors, inside which others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count

import torch
from torch import Tensor, nn

from kdlab.core.errors import UsageError, nearest
from kdlab.core.knowledge import Input
from kdlab.core.reading import ask, first_of, logits_of
from kdlab.networks.attention import AttentionCatcher


def first_tensor(given: object) -> Tensor | None:
    """The first tensor in a module's input or output, also within tuples, lists or mappings."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, Mapping):
        given = tuple(given.values())
    if isinstance(given, tuple | list):
        for entry in given:
            tensor = first_tensor(entry)
            if tensor is not None:
                return tensor
    return None


def module_of(network: nn.Module, tap: str) -> tuple[nn.Module, bool]:
    """The module that a tap names, and whether its input is meant: `layer1` or `layer2:input`.

    Raises:
        UsageError: where there is no such module, with similar names.
    """
    name, colon, side = tap.partition(":")
    modules = dict(network.named_modules(remove_duplicate=False))
    if not name or name not in modules or (colon and side != "input"):
        near = nearest(name, modules.keys() - {""}, most=5)
        raise UsageError(f"tap {tap!r} is neither MODULE nor MODULE:input of {type(network).__name__}{near}")
    return modules[name], bool(colon)


def uncompiled() -> AbstractContextManager[object]:
    """Without the compiler. Its import takes seconds, and nothing was compiled where nobody imported it."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def dry_run(network: nn.Module, input: Input) -> Iterator[None]:
    """Eval mode, no gradients, no compiler; modes and random state are restored."""
    modes = {module: module.training for module in network.modules()}
    device = first_of(input).device
    try:
        network.eval()
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.no_grad(),
            uncompiled(),
        ):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class Value:
    """A tensor at one moment: an in-place operation on it makes another value."""

    tensor: Tensor = field(compare=False)
    identity: tuple[int, int]

    @property
    def overwritten(self) -> bool:
        """Whether an in-place operation has overwritten it since."""
        return self.tensor._version != self.identity[1]


@dataclass(eq=False)
class Call:
    """One run of a module, by a clock that ticks whenever a module starts or ends."""

    name: str
    module: nn.Module
    parents: tuple[Call, ...]
    start: int
    input: Value | None
    end: int = -1
    output: Value | None = None


@dataclass(eq=False)
class Trace:
    """All runs of one dry run, in the order of starting. It keeps every tensor alive.

    input: the first tensor that the network received.
    logits: as the network returned them, not yet by row.
    attentions: how many there were.
    """

    network: nn.Module
    input: Tensor
    calls: list[Call]
    logits: Tensor
    attentions: int = 0

    @cached_property
    def last(self) -> list[Call]:
        """Each module's last run, which is the one that a tap reads, in the order of ending."""
        return sorted({call.module: call for call in self.calls if call.name}.values(), key=lambda call: call.end)

    @cached_property
    def moments(self) -> list[tuple[int, Call, Value]]:
        """(time, run, value) of every input and output, in the order of time."""
        given = [(call.start, call, call.input) for call in self.calls if call.input is not None]
        returned = [(call.end, call, call.output) for call in self.calls if call.output is not None]
        return sorted(given + returned, key=lambda moment: moment[0])

    def at(self, tap: str) -> Value:
        """The value at a tap.

        Raises:
            UsageError: where it names no module.
            RuntimeError: where it never fires.
        """
        module, before = module_of(self.network, tap)
        for call in self.last:
            value = call.input if before else call.output
            if call.module is module and value is not None:
                return value
        fired = {call.name for call in self.last}
        raise RuntimeError(
            f"tap {tap!r} never fires: {type(self.network).__name__} runs without it{nearest(tap, fired, most=5)}"
        )

    def since(self, value: Value) -> int:
        """When a value was first seen."""
        return next(time for time, _, seen in self.moments if seen == value)

    def tap(self, value: Value, begun: int = 0) -> str | None:
        """The tap of a value: the outermost module that outputs it, started at `begun` or later; else one that reads
        it."""
        makers = [call for call in self.last if call.output == value != call.input and call.start >= begun]
        if makers:
            return makers[-1].name
        readers = [call for call in self.last if call.input == value]
        return f"{min(readers, key=lambda call: call.start).name}:input" if readers else None


def trace(network: nn.Module, input: Input) -> Trace:
    """A dry run on a batch with hooks on every module, which are always removed afterwards.

    Raises:
        UsageError: where the network does not return logits.
    """
    calls: list[Call] = []
    running: list[Call] = []
    clock = count()

    def value(given: object) -> Value | None:
        tensor = first_tensor(given)
        return None if tensor is None else Value(tensor, (id(tensor), tensor._version))

    def before(name: str, module: nn.Module, args: object, kwargs: object) -> None:
        running.append(Call(name, module, tuple(running), next(clock), value((args, kwargs))))
        calls.append(running[-1])

    def after(module: nn.Module, args: object, output: object) -> None:
        call = running.pop()
        call.end, call.output = next(clock), value(output)

    hooks = []
    try:
        for name, module in network.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(after))
        with dry_run(network, input), AttentionCatcher() as attention:
            logits = logits_of(ask(network, input))
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(network, first_of(input), calls, logits, len(attention.caught))
