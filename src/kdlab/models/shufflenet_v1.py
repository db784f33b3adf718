"""ShuffleNet for small images: grouped 1×1 convolutions whose channels are shuffled in between.

Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices.
CVPR 2018, figure 2 and table 1.

    y = ReLU(F(x) + x); where a stage begins, y = ReLU([F(x), average pool of x])

As in RepDistiller (Tian et al., ICLR 2020): the stem is a 1×1 convolution at full resolution, and the
depthwise convolution has a ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdlab.models.layers import ChannelShuffle, conv_norm, scaled

STEM = 24


class ShuffleUnit(nn.Module):
    """A bottleneck of grouped convolutions; with a stride, its pooled input is concatenated, not added."""

    def __init__(self, source: int, target: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        middle = scaled(target, 1 / 4, groups)
        self.branch = nn.Sequential(
            *conv_norm(source, middle, 1, groups=first_groups),
            nn.ReLU(inplace=True),
            ChannelShuffle(first_groups),
            *conv_norm(middle, middle, 3, stride=stride, groups=middle),
            nn.ReLU(inplace=True),
            *conv_norm(middle, target, 1, groups=groups),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H, W], or to [B, target + source, H / 2, W / 2] with a stride."""
        branch = self.branch(features)
        joined = branch + features if self.pool is None else torch.cat([branch, self.pool(features)], dim=1)
        result: Tensor = self.relu(joined)
        return result


class ShuffleNetV1(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of layer1 to 3 are H / 2 to H / 8.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count, to the nearest multiple of `groups`.
        groups: groups of the 1×1 convolutions.
        filters: channels of the three stages, before `width`.
        blocks: units of the three stages.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: float,
        groups: int,
        filters: Sequence[int],
        blocks: Sequence[int],
    ) -> None:
        source = scaled(STEM, width, groups)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(*conv_norm(channels, source, 1), nn.ReLU(inplace=True))
        )
        before = [STEM, *filters[:-1]]
        for number, (old, new, count) in enumerate(zip(before, filters, blocks, strict=True), start=1):
            # What a stage adds is scaled, not its sum: narrow networks would otherwise have nothing to add.
            added = scaled(new - old, width, groups)
            target = source + added
            # The stem has too few channels to be split into groups (the paper's note on stage 2).
            opening = ShuffleUnit(source, added, 2, groups, first_groups=1 if number == 1 else groups)
            rest = (ShuffleUnit(target, target, 1, groups, first_groups=groups) for _ in range(count - 1))
            parts[f"layer{number}"] = nn.Sequential(opening, *rest)
            source = target
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["fc"] = nn.Linear(source, classes)
        super().__init__(parts)
