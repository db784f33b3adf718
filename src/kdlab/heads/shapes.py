"""Makes the maps of two networks comparable, from their shapes alone."""

from __future__ import annotations

from math import isqrt

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdlab.core.knowledge import Example


def as_map(stage: Tensor, layer: str = "a stage") -> Tensor:
    """A stage as a map [B, D, H, W].

    Tokens [B, L, D] become a map where L is a square, or a square and one class token in front, which is
    dropped; a vector [B, D] becomes a map of one position.

    Raises:
        ValueError: where the tokens form no square.
    """
    if stage.ndim == 4:
        return stage
    if stage.ndim == 2:
        return stage[:, :, None, None]
    if stage.ndim == 3:
        length = stage.shape[1]
        for extra in (0, 1):
            side = isqrt(length - extra)
            if side and side * side == length - extra:
                return stage[:, extra:].transpose(1, 2).reshape(stage.shape[0], stage.shape[2], side, side)
        raise ValueError(
            f"{layer} gives {length} tokens {tuple(stage.shape)}: neither a square nor a square and one "
            "class token, so it cannot be compared with a map; name other stages in the model's taps"
        )
    raise ValueError(f"{layer} gives {tuple(stage.shape)}; expected [B, D, H, W], [B, L, D] or [B, D]")


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, ., H, W] of one height and width: along each side the larger is average-pooled."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return _pooled(one, size), _pooled(other, size)


def paired_stages(learner: Example, teacher: Example) -> tuple[tuple[int, int], ...]:
    """(learner stage, teacher stage), shallow to deep, paired from the last backwards.

    Where one network has more stages, its shallowest are left out.
    """
    ours, theirs = len(learner.knowledge.stages), len(teacher.knowledge.stages)
    if not min(ours, theirs):
        raise ValueError(f"{learner.name} has {ours} stages and {teacher.name} {theirs}: nothing to compare")
    return tuple((ours - back, theirs - back) for back in range(min(ours, theirs), 0, -1))


def spatial_pairs(
    learner: Example, teacher: Example, pairs: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """The pairs of stages with more than one position, for heads that compare positions.

    Over a single position every normalised map is the same, so such a pair would add a constant.

    Raises:
        ValueError: where no pair is left.
    """
    found = []
    for ours, theirs in pairs:
        one, other = stage_map(learner, ours), stage_map(teacher, theirs)
        if min(one.shape[2], other.shape[2]) * min(one.shape[3], other.shape[3]) > 1:
            found.append((ours, theirs))
    if not found:
        ours, theirs = pairs[-1]
        raise ValueError(
            f"{layer_name(learner, ours)} gives {tuple(stage_map(learner, ours).shape)} and "
            f"{layer_name(teacher, theirs)} {tuple(stage_map(teacher, theirs).shape)}: they share one position, "
            "and this loss compares positions; name earlier stages in the model's taps, or choose a loss that "
            "compares channels, such as loss=fitnet"
        )
    return tuple(found)


def stage_map(example: Example, position: int, *, preactivation: bool = False) -> Tensor:
    """The map [B, D, H, W] of one stage of an example, or that before its last activation.

    Raises:
        ValueError: where the network has no such map.
    """
    knowledge = example.knowledge
    values = knowledge.preactivations if preactivation else knowledge.stages
    value = values[position] if -len(values) <= position < len(values) else None
    layer = layer_name(example, position)
    if value is None:
        what = "preactivation" if preactivation else "map"
        raise ValueError(f"{layer} has no {what}; name one in the model's taps")
    return as_map(value, layer)


def final_map(example: Example) -> Tensor:
    """The map before pooling [B, D, H, W] of an example, whose mean over positions is the embedding.

    Raises:
        ValueError: where it is tokens that form no square.
    """
    return as_map(example.knowledge.before_pooling(), final_name(example))


def final_name(example: Example) -> str:
    """The final map's name in messages: `resnet8x4 layer3`."""
    return f"{example.name} {example.final_layer or 'final map'}"


def layer_name(example: Example, position: int) -> str:
    """A stage's name in messages: `resnet8x4 layer2`."""
    inside = -len(example.layers) <= position < len(example.layers)
    return f"{example.name} {example.layers[position] if inside else f'stage {position}'}"


class Align(nn.Module):
    """A learned 1×1 convolution from one map's channels to another's; optionally with normalisation.

    Maps of another height and width are pooled by the loss (`same_size`), not here.
    """

    def __init__(self, source: int, target: int, *, norm: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, target, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(target) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H, W]."""
        result: Tensor = self.activation(self.norm(self.conv(features)))
        return result


def _pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[2:]) == size:
        return features
    return adaptive_avg_pool2d(features, size)
