"""ShuffleNet V2 for small images: half of the channels pass each block untouched, then all are shuffled.

Ma, Zhang, Zheng, Sun. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design. ECCV 2018,
figure 3 (c, d) and table 5.

    [x₁, x₂] = x, y = shuffle([x₁, F(x₂)]), F: 1×1, 3×3 depthwise, 1×1

As in RepDistiller (Tian et al., ICLR 2020), the stem is a 1×1 convolution at full resolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdlab.models.layers import ChannelShuffle, conv_norm, scaled

STEM = 24


class ShuffleBlock(nn.Module):
    """Keeps one half of its channels and convolves the other.

    The ReLU follows the concatenation, which changes nothing for the half that already went through one:
    so the block's last activation reads the whole map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, stride=1)
        self.relu = nn.ReLU(inplace=True)
        self.shuffle = ChannelShuffle(2)

    def forward(self, features: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        kept, worked = features.chunk(2, dim=1)
        result: Tensor = self.shuffle(self.relu(torch.cat([kept, self.branch(worked)], dim=1)))
        return result


class DownBlock(nn.Module):
    """Convolves all its channels twice with a stride, each time into half of the target."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            *conv_norm(source, source, 3, stride=2, groups=source), *conv_norm(source, target // 2, 1)
        )
        self.right = _branch(source, target // 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.shuffle = ChannelShuffle(2)

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H / 2, W / 2]."""
        result: Tensor = self.shuffle(self.relu(torch.cat([self.left(features), self.right(features)], dim=1)))
        return result


class ShuffleNetV2(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of layer1 to 3 are H / 2 to H / 8.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count, to the nearest even number within the blocks.
        filters: channels of the three stages, before `width`.
        blocks: blocks of the three stages, the one with the stride included.
        last: channels of the last 1×1 convolution, before `width`.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: float,
        filters: Sequence[int],
        blocks: Sequence[int],
        last: int,
    ) -> None:
        source = scaled(STEM, width)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(*conv_norm(channels, source, 1), nn.ReLU(inplace=True))
        )
        for number, (new, count) in enumerate(zip(filters, blocks, strict=True), start=1):
            target = scaled(new, width, 2)
            rest = (ShuffleBlock(target) for _ in range(count - 1))
            parts[f"layer{number}"] = nn.Sequential(DownBlock(source, target), *rest)
            source = target
        last = scaled(last, width)
        parts["head"] = nn.Sequential(*conv_norm(source, last, 1), nn.ReLU(inplace=True))
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["fc"] = nn.Linear(last, classes)
        super().__init__(parts)


def _branch(source: int, target: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(source, target, 1),
        nn.ReLU(inplace=True),
        *conv_norm(target, target, 3, stride=stride, groups=target),
        *conv_norm(target, target, 1),
    )
