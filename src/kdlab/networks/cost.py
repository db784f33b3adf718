"""The cost of a network: parameters, arithmetic and latency."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from kdlab.core.knowledge import Input
from kdlab.core.reading import ask, first_of
from kdlab.networks.trace import uncompiled

TURNS = 20
"""How often each network is timed, in turn with the others."""


def costs(networks: Mapping[str, tuple[nn.Module, Input]]) -> dict[str, dict[str, Any]]:
    """Of each network: parameters, multiply-accumulates per sample, and latency of one sample on one CPU thread.

    Measured on the CPU, without hooks, compiler or channels-last format, so that settings of training do not count.
    Latencies are measured in turns: on a busy machine they are slow together.

    Args:
        networks: by name, each with a batch of what it receives; they stay on the CPU.
    """
    ready = {name: (_plain(network), _one(input)) for name, (network, input) in networks.items()}
    with uncompiled():
        times = latencies_ms(ready)
        return {
            name: {
                "parameters": parameters(network),
                "multiply_accumulates": multiply_accumulates(network, one),
                "latency_ms": times[name],
            }
            for name, (network, one) in ready.items()
        }


def parameters(network: nn.Module) -> int:
    """The number of parameters, trained or frozen."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_accumulates(network: nn.Module, input: Input) -> int:
    """Multiply-accumulates of convolutions and matrix products, also those of attention, for one sample of a batch."""
    was_training = network.training
    network.eval()
    # The counter knows no fused attention on the CPU; its plain form is two matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ask(network, input)
    network.train(was_training)
    return int(counter.get_total_flops() // 2 // len(first_of(input)))


def latencies_ms(networks: Mapping[str, tuple[nn.Module, Input]], *, seconds: float = 0.3) -> dict[str, float]:
    """The median time of one forward pass of each network on one CPU thread, in milliseconds; they run in turns.

    Args:
        networks: by name, each with its input.
        seconds: about how long each is measured.
    """
    modes = {name: network.training for name, (network, _) in networks.items()}
    timers = {}
    for name, (network, input) in networks.items():
        network.eval()
        timers[name] = Timer("ask(network, input)", globals={"ask": ask, "network": network, "input": input})
    found: dict[str, list[float]] = {name: [] for name in timers}
    with torch.no_grad():
        passes = {name: max(1, int(seconds / TURNS / timer.timeit(2).mean)) for name, timer in timers.items()}
        for _ in range(TURNS):
            for name, timer in timers.items():
                found[name].append(timer.timeit(passes[name]).mean * 1e3)
    for name, (network, _) in networks.items():
        network.train(modes[name])
    return {name: median(times) for name, times in found.items()}


def _plain(network: nn.Module) -> nn.Module:
    made: nn.Module = network.cpu().float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return made


def _one(input: Input) -> Input:
    if isinstance(input, Mapping):
        return {name: _first(value) for name, value in input.items()}
    return _first(input)


def _first(values: Tensor) -> Tensor:
    one = values[:1].cpu()
    return one.float() if one.is_floating_point() else one
