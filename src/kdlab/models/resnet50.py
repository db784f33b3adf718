"""The bottleneck residual network with a stem for small images: ResNet50 as a CIFAR teacher.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.1.

    y = ReLU(F(x) + x), F a 1×1, a 3×3 and a 1×1 convolution, the last four times as wide

The stem is one 3×3 convolution at full resolution instead of a 7×7 with stride and a pool, and the stride
of a block is in its 3×3 convolution, both as in RepDistiller (Tian et al., ICLR 2020).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from kdlab.models.layers import conv_norm, he_normal, scaled

EXPANSION = 4


class Bottleneck(nn.Module):
    """Reduce, convolve, expand, around a shortcut; the names are torchvision's."""

    def __init__(self, source: int, middle: int, stride: int) -> None:
        super().__init__()
        target = middle * EXPANSION
        self.conv1, self.bn1 = conv_norm(source, middle, 1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_norm(middle, middle, 3, stride=stride)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3, self.bn3 = conv_norm(middle, target, 1)
        changes = stride != 1 or source != target
        self.downsample = nn.Sequential(*conv_norm(source, target, 1, stride=stride)) if changes else nn.Identity()
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, 4 · middle, H / stride, W / stride]."""
        # First, so that the branch's is the last normalisation to run before the activation.
        shortcut = self.downsample(features)
        features = self.relu1(self.bn1(self.conv1(features)))
        features = self.relu2(self.bn2(self.conv2(features)))
        result: Tensor = self.relu3(self.bn3(self.conv3(features)) + shortcut)
        return result


class BottleneckResNet(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of layer1 to 4 are H to H / 8.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count.
        blocks: blocks of each of the four stages: [3, 4, 6, 3] makes 50 layers, [3, 4, 23, 3] makes 101.
    """

    def __init__(self, *, classes: int, channels: int, width: float, blocks: Sequence[int]) -> None:
        middles = [scaled(count, width) for count in (64, 128, 256, 512)]
        sources = [middles[0], *(EXPANSION * middle for middle in middles)]
        conv1, bn1 = conv_norm(channels, middles[0], 3)
        layer1, layer2, layer3, layer4 = (
            _stage(source, middle, count, stride)
            for source, middle, count, stride in zip(sources[:4], middles, blocks, (1, 2, 2, 2), strict=True)
        )
        super().__init__(
            OrderedDict(
                conv1=conv1,
                bn1=bn1,
                relu=nn.ReLU(inplace=True),
                layer1=layer1,
                layer2=layer2,
                layer3=layer3,
                layer4=layer4,
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(sources[4], classes),
            )
        )
        he_normal(self)


def _stage(source: int, middle: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(EXPANSION * middle, middle, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(source, middle, stride), *rest)
