"""Makes the maps of two networks comparable, from their shapes alone.

Tokens of a picture are a square of positions, those of a text a line; which of the two is decided once, from the
example (`on_line`). Padding at the end of a line counts in no loss: it is cut out (`tokens_of`) or zero (`line_map`).
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdlab.core.knowledge import Example, Knowledge
from kdlab.core.reading import first_of


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


def on_line(learner: Example, teacher: Example) -> bool:
    """Whether both networks work on tokens in a line: their input is a sequence, and no picture.

    Raises:
        ValueError: where one of them does, or their lines are of different lengths.
    """
    ours, theirs = _length(learner), _length(teacher)
    if ours != theirs:
        raise ValueError(
            f"{learner.name} works on {_in_words(ours)} and {teacher.name} on {_in_words(theirs)}: their positions "
            "cannot be compared; choose a loss on predictions, such as loss=kd or loss=uld"
        )
    return ours is not None


def line_map(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Tokens [B, L, D] in a line as a map [B, D, 1, L], zero where there is only padding (valid [B, L])."""
    if valid is not None:
        tokens = torch.where(valid[:, :, None], tokens, 0.0)
    return tokens.transpose(1, 2)[:, :, None]


def tokens_of(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Tokens [B, L, D] in a line, without padding, as maps of one position [N, D, 1, 1]."""
    rows = tokens.flatten(0, 1) if valid is None else tokens[valid]
    return rows[:, :, None, None]


def mapped(adapter: nn.Module, features: Tensor, valid: Tensor | None) -> Tensor:
    """An adapter on a map; on a line [B, D, 1, L] with padding it sees the tokens alone, and leaves zeros."""
    if valid is None:
        result: Tensor = adapter(features)
        return result
    tokens = adapter(tokens_of(features[:, :, 0].transpose(1, 2), valid)).flatten(1)
    made = tokens.new_zeros(*valid.shape, tokens.shape[1])
    made[valid] = tokens
    return line_map(made, None)


def read_map(knowledge: Knowledge, position: int, *, line: bool) -> Tensor:
    """One stage as a map [B, D, H, W]; `line` is what `on_line` said of the two networks."""
    stage = knowledge.stage(position)
    return line_map(stage, knowledge.valid) if line else as_map(stage)


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
    learner: Example, teacher: Example, pairs: tuple[tuple[int, int], ...], *, line: bool = False
) -> tuple[tuple[int, int], ...]:
    """The pairs of stages with more than one position, for heads that compare positions.

    Over a single position every normalised map is the same, so such a pair would add a constant.

    Args:
        line: whether the loss can compare tokens in a line.

    Raises:
        ValueError: where no pair is left.
    """
    found = []
    for ours, theirs in pairs:
        one, other = stage_map(learner, ours, line=line), stage_map(teacher, theirs, line=line)
        if min(one.shape[2], other.shape[2]) * min(one.shape[3], other.shape[3]) > 1:
            found.append((ours, theirs))
    if not found:
        one, other = stage_map(learner, ours, line=line), stage_map(teacher, theirs, line=line)
        raise ValueError(
            f"{layer_name(learner, ours)} gives {tuple(one.shape)} and "
            f"{layer_name(teacher, theirs)} {tuple(other.shape)}: they share one position, "
            "and this loss compares positions; name earlier stages in the model's taps, or choose a loss that "
            "compares channels, such as loss=fitnet"
        )
    return tuple(found)


def stage_map(example: Example, position: int, *, preactivation: bool = False, line: bool = False) -> Tensor:
    """The map [B, D, H, W] of one stage of an example, or that before its last activation.

    Args:
        line: whether the loss can compare tokens in a line.

    Raises:
        ValueError: where the network has no such map, or it is a line and the loss compares planes.
    """
    knowledge = example.knowledge
    values = knowledge.preactivations if preactivation else knowledge.stages
    value = values[position] if -len(values) <= position < len(values) else None
    layer = layer_name(example, position)
    if value is None:
        what = "preactivation" if preactivation else "map"
        raise ValueError(f"{layer} has no {what}; name one in the model's taps")
    return _example_map(example, value, layer, line)


def final_map(example: Example) -> Tensor:
    """The map before pooling [B, D, H, W] of an example, whose mean over positions is the embedding.

    Raises:
        ValueError: where it is tokens that form no square.
    """
    return _example_map(example, example.knowledge.before_pooling(), final_name(example), line=False)


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


def _example_map(example: Example, value: Tensor, layer: str, line: bool) -> Tensor:
    if value.ndim != 3 or _length(example) is None:
        return as_map(value, layer)
    if not line:
        raise ValueError(
            f"{layer} gives {value.shape[1]} tokens in a line {tuple(value.shape)}, and this loss compares planes; on "
            "sequences choose at, cwd, fitnet, fsp, ickd, kdsvd, nst, sp or vid, or a loss for transformers: tinybert"
        )
    return line_map(value, example.knowledge.valid)


def _length(example: Example) -> int | None:
    """How many tokens there are in a line; None where there are none."""
    if example.input is None:
        return None
    first = first_of(example.input)
    ids = first.ndim == 2 and not first.is_floating_point()
    return first.shape[1] if ids or first.ndim == 3 else None


def _in_words(length: int | None) -> str:
    return "no line of tokens" if length is None else f"{length} tokens in a line"


def _pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[2:]) == size:
        return features
    return adaptive_avg_pool2d(features, size)
