"""The maps of a network in a dry run: the last one at each resolution, and the last one before pooling.

`kdlab.networks.taps` defines them and finds their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, log2

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import raised
from kdlab.networks.trace import Call, Trace, Value

Level = Callable[[Call, Value | None], int | None]


def stage_maps(seen: Trace) -> list[Value]:
    """The last map at each level with a convolution, shallow to deep."""
    level = _levels(seen)
    path = _path(seen, level)
    convolutions = [call for call in path if isinstance(call.module, nn.Conv2d)]
    # Values before the first convolution are the image, values after the last pool belong to the head.
    first = min((call.end for call in convolutions), default=inf)
    last = _pooled(path)
    image = {value for time, _, value in seen.moments if time < first}
    body = [(time, call, value) for time, call, value in seen.moments if time <= last and value not in image]
    # The latest map of each level; where one module makes the whole step down, that module's input instead.
    maps = {level(call, value): value for _, call, value in body}
    steps = {
        call: value
        for time, call, value in body
        if time == call.start and call in path and path[call][1] - path[call][0] == 1
    }
    maps |= {path[call][0]: value for call, value in steps.items() if steps.keys().isdisjoint(call.parents)}
    worked = [path[call] for call in convolutions if call.end < last]
    levels = {given for given, _ in worked} | {max((made for _, made in worked), default=0)}
    return [maps[place] for place in sorted(levels) if place in maps]


def final_map(seen: Trace, embedding: Tensor) -> Value | None:
    """The last map before pooling whose mean over positions is the embedding [B, D]; None where there is none."""
    last = _pooled(_path(seen, _levels(seen)))
    found = None
    for time, _, value in seen.moments:
        # Of maps with one position, which equal their mean, the first: later ones may be pooled by a function.
        if time <= last and is_final(value, embedding) and (found is None or _positions(value.tensor) > 1):
            found = value
    return found


def is_final(value: Value, embedding: Tensor) -> bool:
    """Whether this is a map [B, D, H, W] or [B, L, D] whose mean over positions is the embedding [B, D]."""
    # One overwritten since no longer holds its values.
    if value.tensor.ndim not in (3, 4) or value.overwritten or not value.tensor.is_floating_point():
        return False
    mean, expected = raised(value.tensor).mean((2, 3) if value.tensor.ndim == 4 else 1), raised(embedding)
    if mean.shape != expected.shape or mean.dtype != expected.dtype:
        return False
    # Allows only for another order of summation: an early block of an untrained residual network is close to its last.
    step = max(torch.finfo(tensor.dtype).eps for tensor in (value.tensor, embedding))
    return torch.allclose(mean, expected, rtol=0.0, atol=min(1e-2, 1000 * step) * float(expected.abs().max()))


def dimensions(seen: Trace, value: Value | None) -> int:
    """The dimensions of a tensor over the batch's samples; 0 for any other."""
    return value.tensor.ndim if value is not None and value.tensor.shape[:1] == seen.input.shape[:1] else 0


def _positions(tensor: Tensor) -> int:
    return tensor.shape[2:].numel() if tensor.ndim == 4 else tensor.shape[1]


def _levels(seen: Trace) -> Level:
    """The level of a map within a call: 0 for the image, one more with every halving of its side.

    None for what is not a map, and for a map on a side branch: inside a module that leads from one level to
    another, a map at a level not between the two, as in squeeze-and-excitation.
    """
    shapes = [seen.input.shape, *(call.input.tensor.shape for call in seen.calls if call.input is not None)]
    image = next((shape for shape in shapes if len(shape) == 4), None)

    def level(value: Value | None) -> int | None:
        if image is None or value is None or dimensions(seen, value) != 4:
            return None
        return round(log2((image[2] * image[3]) / (value.tensor.shape[2] * value.tensor.shape[3])) / 2)

    spans = {call: (level(call.input), level(call.output)) for call in seen.calls}

    def within(call: Call, value: Value | None) -> int | None:
        here = level(value)
        if here is None:
            return None
        for given, made in (spans[parent] for parent in call.parents):
            if given is not None and made is not None and not min(given, made) <= here <= max(given, made):
                return None
        return here

    return within


def _path(seen: Trace, level: Level) -> dict[Call, tuple[int, int]]:
    """The levels of input and output of each run on maps."""
    return {
        call: (given, made)
        for call in seen.calls
        if (given := level(call, call.input)) is not None and (made := level(call, call.output)) is not None
    }


def _pooled(path: Mapping[Call, tuple[int, int]]) -> float:
    """When the last module starts that pools a map to one position."""
    return max((call.start for call, (given, made) in path.items() if _pools(call, made - given)), default=inf)


def _pools(call: Call, down: int) -> bool:
    """Whether this pools a map to one position. A last strided max pool, one step down, does not."""
    assert call.output is not None
    if call.output.tensor.shape[2:].numel() > 1 or next(call.module.parameters(), None) is not None:
        return False
    return down > 1 or isinstance(call.module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
