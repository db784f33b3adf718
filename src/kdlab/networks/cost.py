"""The cost of a network: parameters, arithmetic and latency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from kdlab.networks.trace import uncompiled


def cost(network: nn.Module, input: Tensor) -> dict[str, Any]:
    """Parameters, multiply-accumulates per sample, and latency of one sample on one CPU thread.

    Measured on the CPU, without hooks, compiler or channels-last format, so that settings of training do not count.
    """
    network = network.cpu().float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    one = input[:1].cpu().float()
    with uncompiled():
        return {
            "parameters": parameters(network),
            "multiply_accumulates": multiply_accumulates(network, one),
            "latency_ms": latency_ms(network, one),
        }


def parameters(network: nn.Module) -> int:
    """The number of parameters, trained or frozen."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_accumulates(network: nn.Module, input: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products, for one sample of a batch [1, ...]."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(input)
    network.train(was_training)
    return int(counter.get_total_flops() // 2 // len(input))


def latency_ms(network: nn.Module, input: Tensor, *, seconds: float = 0.3) -> float:
    """The median time of one forward pass on one CPU thread, in milliseconds."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        measurement = Timer("network(input)", globals={"network": network, "input": input}).blocked_autorange(
            min_run_time=seconds
        )
    network.train(was_training)
    return float(measurement.median * 1e3)
