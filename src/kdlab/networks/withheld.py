"""A network without its classifier: what the classifier reads comes out, and the logits can be computed later.

The logits of a vocabulary are the largest tensor of a language model. Where they are computed in parts, from the
embedding and the classifier's weight, tied or not, they are never whole in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kdlab.core.knowledge import Input
from kdlab.core.reading import ask, first_of, logits_of
from kdlab.networks.trace import dry_run, first_tensor


@contextmanager
def withheld(classifier: nn.Module) -> Iterator[None]:
    """The classifier returns its input."""
    vars(classifier)["forward"] = _same
    try:
        yield
    finally:
        del vars(classifier)["forward"]


def _same(input: Tensor) -> Tensor:
    return input


def can_withhold(network: nn.Module, classifier: nn.Module, input: Input) -> bool:
    """Whether the network does nothing to its logits after the classifier, such as to cap them; tried on an input."""
    if network._compiled_call_impl is not None or "forward" in vars(classifier):
        return False
    seen: list[Tensor | None] = []
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(first_tensor(given)))
    try:
        with dry_run(network, input), withheld(classifier):
            answer = logits_of(ask(network, input))
    except (RuntimeError, TypeError, ValueError):
        return False
    finally:
        hook.remove()
    return len(seen) == 1 and seen[0] is not None and torch.equal(answer, seen[0])


def classified(classifier: nn.Linear, embedding: Tensor, input: Input) -> Callable[[int, int], Tensor]:
    """Computes the logits [n, C] of rows of an embedding [N, D], in the precision of the pass that it comes from."""
    device = first_of(input).device.type
    grads, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)

    def compute(start: int, stop: int) -> Tensor:
        with (
            torch.set_grad_enabled(grads and torch.is_grad_enabled()),
            # Without the cache of casts, so that a pass that recomputes these does what the first one did.
            torch.autocast(device, dtype, enabled=autocast, cache_enabled=False),
        ):
            return linear(embedding[start:stop], classifier.weight, classifier.bias)

    return compute
