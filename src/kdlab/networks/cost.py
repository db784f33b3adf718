"""The cost of a network: parameters, arithmetic and latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import prod
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdlab.core.knowledge import Input
from kdlab.core.reading import ask, first_of
from kdlab.networks.trace import uncompiled

K = TypeVar("K")

TURNS = 20
"""How often each network is timed, in turn with the others."""


def costs(networks: Mapping[K, tuple[nn.Module, Input]]) -> dict[K, dict[str, Any]]:
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
    """Multiply-accumulates of convolutions and matrix products, also in attention and LSTMs, for one of the samples."""
    was_training = network.training
    network.eval()
    # The counter knows no fused attention on the CPU; its plain form is two matrix products.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _lstm_flops})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        ask(network, input)
    network.train(was_training)
    return int(counter.get_total_flops() // 2 // len(first_of(input)))


def _lstm_flops(input: Sequence[int], inward: Sequence[int], recurrent: Sequence[int], *_: Any, **__: Any) -> int:
    """Of one direction of a layer of an LSTM, which oneDNN runs as a whole and the counter does not know.

    Args:
        input: the shape of the tokens, [L, B, D].
        inward: that of the weights of the four gates, [4 H, D].
        recurrent: that of their weights on the state, [4 H, H].
    """
    return 2 * input[0] * input[1] * (prod(inward) + prod(recurrent))


def latencies_ms(networks: Mapping[K, tuple[nn.Module, Input]], *, seconds: float = 0.3) -> dict[K, float]:
    """The median time of one forward pass of each network on one CPU thread, in milliseconds; they run in turns.

    Args:
        networks: by name, each with its input.
        seconds: about how long each is measured; at least one turn.
    """
    modes = {name: network.training for name, (network, _) in networks.items()}
    found: dict[K, list[float]] = {name: [] for name in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            passes = {name: _passes(*made, seconds / TURNS) for name, made in networks.items()}
            for _ in range(TURNS):
                for name, made in networks.items():
                    if sum(found[name]) < 3 * seconds * 1e3:  # a large network has fewer turns
                        found[name].append(_time(*made, passes[name]) * 1e3)
    finally:
        torch.set_num_threads(threads)
    for name, (network, _) in networks.items():
        network.train(modes[name])
    return {name: median(times) for name, times in found.items()}


def _passes(network: nn.Module, input: Input, seconds: float) -> int:
    """How many passes take about so long, after one to warm up."""
    network.eval()
    _time(network, input, 1)
    return max(1, int(seconds / _time(network, input, 1)))


def _time(network: nn.Module, input: Input, passes: int) -> float:
    """Seconds of a pass."""
    start = time.perf_counter()
    for _ in range(passes):
        ask(network, input)
    return (time.perf_counter() - start) / passes


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
