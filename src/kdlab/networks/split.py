"""Splits a network at a tap: the modules that have ended when it fires, and those that have not yet started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain

from torch import nn

from kdlab.core.knowledge import Input
from kdlab.networks.trace import Call, Trace, module_of, trace


@dataclass(frozen=True)
class Split:
    """The outermost modules of a network, by name, on either side of a tap.

    before: those whose runs have all ended when the tap fires, in the order of ending.
    after: those whose runs all start then or later.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]


def split(network: nn.Module, input: Input, tap: str) -> Split:
    """How a tap divides a network, from a dry run. Modules on both sides are in neither."""
    seen = trace(network, input)
    moment = _moment(seen, tap)

    def outermost(there: Callable[[Call], bool], module: nn.Module, prefix: str = "") -> list[str]:
        found = []
        for name, child in module.named_children():
            within = set(child.modules())
            runs = [call for call in seen.calls if call.module in within]
            whole = any(call.module is child for call in runs) and all(map(there, runs))
            found += [prefix + name] if whole else outermost(there, child, f"{prefix}{name}.") if runs else []
        return found

    ends = {call.module: call.end for call in seen.calls}
    before = outermost(lambda call: call.end <= moment, network)
    before.sort(key=lambda name: ends[network.get_submodule(name)])
    return Split(tuple(before), tuple(outermost(lambda call: call.start >= moment, network)))


def shallow_copy(network: nn.Module, modules: Sequence[str]) -> nn.Module:
    """A copy that is this network in its named modules, and shares every other tensor with it; in eval mode."""
    tensors = chain(network.parameters(), network.buffers())
    copy = deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    for name in modules:
        copy.set_submodule(name, network.get_submodule(name))
    return copy


def _moment(seen: Trace, tap: str) -> int:
    module, before = module_of(seen.network, tap)
    call = next(call for call in reversed(seen.last) if call.module is module)
    return call.start if before else call.end
