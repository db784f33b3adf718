"""Wide residual networks: WRN-16-2, WRN-40-1, WRN-40-2.

Zagoruyko, Komodakis. Wide Residual Networks. BMVC 2016, table 1, without dropout.

    y = F(a) + x, a = ReLU(BN(x)), F two 3×3 convolutions; three stages of n blocks; depth = 6n + 4

Normalisation and activation come before the convolutions (He et al., Identity Mappings in Deep Residual
Networks, ECCV 2016); where the shape changes, the shortcut is a 1×1 convolution of a instead of x.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.models.layers import he_normal, scaled


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each behind its normalisation and activation, around a shortcut."""

    def __init__(self, source: int, target: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(source)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(source, target, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(target)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(target, target, 3, padding=1, bias=False)
        changes = stride != 1 or source != target
        self.shortcut = nn.Conv2d(source, target, 1, stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H / stride, W / stride]."""
        active = self.relu1(self.norm1(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        result: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(active)))) + shortcut
        return result


class WideResNet(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of block1 to 3 are H, H / 2 and H / 4.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count, the stem's too.
        depth: 6n + 4: 10, 16, 22, 28, 40, ...
        widen: the paper's k, which multiplies the channels of the three stages alone.
    """

    def __init__(self, *, classes: int, channels: int, width: float, depth: int, widen: int) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise UsageError(f"depth={depth}: expected 6n + 4 layers, such as 10, 16, 22, 28 or 40")
        stem, first, second, third = (scaled(count, width) for count in (16, 16 * widen, 32 * widen, 64 * widen))
        blocks = (depth - 4) // 6
        fc = nn.Linear(third, classes)
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, stem, 3, padding=1, bias=False),
                block1=_stage(stem, first, blocks, stride=1),
                block2=_stage(first, second, blocks, stride=2),
                block3=_stage(second, third, blocks, stride=2),
                norm=nn.BatchNorm2d(third),
                relu=nn.ReLU(inplace=True),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=fc,
            )
        )
        he_normal(self)
        nn.init.zeros_(fc.bias)


def _stage(source: int, target: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (WideBlock(target, target, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(source, target, stride), *rest)
