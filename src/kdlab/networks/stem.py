"""The stem of a convolutional network: the map that its stages start from.

It is the output of the outermost module that contains the first convolution and ends before the first stage's map,
after the normalisation and activation that follow on its level. On the networks of RepDistiller (Tian et al.,
ICLR 2020) that is the first of their maps, feat[0]. A network whose first stage comes straight from its first
convolution has none, nor does one that works on tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdlab.networks.trace import Trace, Value


def find_stem(seen: Trace, first: Value, follows: Callable[[nn.Module], bool]) -> str | None:
    """The tap of the stem, or None.

    Args:
        seen: a dry run.
        first: the map of the first stage.
        follows: whether a module is a normalisation or an activation.
    """
    convolution = next((call for call in seen.calls if isinstance(call.module, nn.Conv2d)), None)
    if convolution is None or first.tensor.ndim != 4:
        return None
    made = seen.since(first)
    stem = next((call for call in (*convolution.parents, convolution) if call.name and call.end < made), None)
    if stem is None:
        return None
    for call in seen.calls:
        if call.parents == stem.parents and call.input == stem.output and follows(call.module):
            stem = call
    if stem.output is None or stem.output == first or stem.output.tensor.ndim != 4:
        return None
    return stem.name
