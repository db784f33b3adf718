"""Residual networks for small images: resnet20, resnet56, resnet8x4 and relatives.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.

    y = ReLU(F(x) + x), F two 3×3 convolutions; three stages of n blocks; depth = 6n + 2

As in RepDistiller (Tian et al., ICLR 2020), the shortcut is a 1×1 convolution where the shape changes,
and the "x4" networks are four times as wide from the first stage on, behind a stem twice as wide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.models.layers import conv_norm, he_normal, scaled


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut; the names are torchvision's."""

    def __init__(self, source: int, target: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(source, target, 3, stride=stride)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_norm(target, target, 3)
        changes = stride != 1 or source != target
        self.downsample = nn.Sequential(*conv_norm(source, target, 1, stride=stride)) if changes else nn.Identity()
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H / stride, W / stride]."""
        # First, so that the branch's is the last normalisation to run before the activation.
        shortcut = self.downsample(features)
        features = self.relu1(self.bn1(self.conv1(features)))
        result: Tensor = self.relu2(self.bn2(self.conv2(features)) + shortcut)
        return result


class ResNet(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of layer1 to 3 are H, H / 2 and H / 4.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count.
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        filters: channels of the stem and of the three stages, before `width`.
    """

    def __init__(self, *, classes: int, channels: int, width: float, depth: int, filters: Sequence[int]) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"depth={depth}: expected 6n + 2 layers, such as 8, 14, 20, 26 or 32")
        stem, first, second, third = (scaled(count, width) for count in filters)
        blocks = (depth - 2) // 6
        conv1, bn1 = conv_norm(channels, stem, 3)
        super().__init__(
            OrderedDict(
                conv1=conv1,
                bn1=bn1,
                relu=nn.ReLU(inplace=True),
                layer1=_stage(stem, first, blocks, stride=1),
                layer2=_stage(first, second, blocks, stride=2),
                layer3=_stage(second, third, blocks, stride=2),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(third, classes),
            )
        )
        he_normal(self)


def _stage(source: int, target: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(target, target, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(source, target, stride), *rest)
