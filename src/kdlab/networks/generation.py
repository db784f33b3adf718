"""Continues texts with causal language models, alone or mixed.

The caller gives the random numbers, so that what is written depends neither on the batch nor on what was drawn before.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import raised
from kdlab.core.reading import logits_of


class Written(NamedTuple):
    """Texts that were continued.

    text: [B, L], the prompts with what follows. log_probability: [B, L - P], of each token that was drawn.
    """

    text: Tensor
    log_probability: Tensor


@torch.no_grad()
def continued(
    writers: Sequence[tuple[nn.Module, float]],
    prompt: Tensor,
    length: int,
    draws: Tensor | None,
    temperature: float = 1.0,
) -> Written:
    """Prompts, continued token by token in eval mode.

    Each token is drawn from Σ share · softmax(logits / temperature) over the writers, by inversion of its cumulative
    sum. A network that takes `past_key_values`, as those of transformers do, reads each token once; any other reads
    the whole text for each token.

    Args:
        writers: networks from `input_ids` [B, L] to logits [B, L, V], each with its share; the shares sum to 1.
        prompt: [B, P] tokens, P ≥ 1.
        length: of the texts, L > P; a writer reads at most L - 1 tokens.
        draws: [B, L - P] uniform numbers in [0, 1); None: the most probable token each time.
        temperature: of the writers' probabilities.
    """
    text, found = prompt, []
    with ExitStack() as stack:
        readers = [(stack.enter_context(_reading(network)), share) for network, share in writers]
        for place in range(length - prompt.shape[1]):
            mixed = sum(share * (reader.next(text) / temperature).softmax(1) for reader, share in readers)
            assert isinstance(mixed, Tensor), "there is a writer"
            token = mixed.argmax(1) if draws is None else _drawn(mixed, draws[:, place])
            found.append(mixed.gather(1, token[:, None]).log())
            text = torch.cat([text, token[:, None]], 1)
        # Autocast keeps the half copies of weights that it made without gradients, and the next pass would take them.
        torch.clear_autocast_cache()
    return Written(text, torch.cat(found, 1))


def _drawn(probabilities: Tensor, draws: Tensor) -> Tensor:
    reached = probabilities.cumsum(1)
    place = torch.searchsorted(reached, draws[:, None].to(reached) * reached[:, -1:], right=True)
    return place[:, 0].clamp(max=probabilities.shape[1] - 1)


class _Reader:
    """Reads a growing text; keeps the keys and values of what it has read, where the network can."""

    def __init__(self, network: nn.Module) -> None:
        # Not the module itself, which may be compiled: every length would be compiled anew.
        self._forward = network.forward
        self._keeps = "past_key_values" in inspect.signature(self._forward).parameters
        self._past: object = None
        self._read = 0

    def next(self, text: Tensor) -> Tensor:
        """Logits [B, V] of the token after a text [B, L], which begins with the text before."""
        if not self._keeps:
            return raised(logits_of(self._forward(input_ids=text))[:, -1])
        output = self._forward(input_ids=text[:, self._read :], past_key_values=self._past, use_cache=True)
        self._past, self._read = output.past_key_values, text.shape[1]
        return raised(logits_of(output)[:, -1])


@contextmanager
def _reading(network: nn.Module) -> Iterator[_Reader]:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield _Reader(network)
    finally:
        for module in training:
            module.training = True
