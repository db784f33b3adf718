"""VGG with batch normalisation and one linear layer: vgg8 to vgg19.

Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015, table 1.

Five blocks of 3×3 convolutions with a halving max pool between them. As in RepDistiller (Tian et al., ICLR
2020), which added vgg8, one linear layer behind an average pool takes the place of three, and the fourth
pool waits for maps larger than 4 pixels: images of 32 pixels end on 4×4 maps, as do those of 64.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.models.layers import he_normal, scaled

FILTERS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class Halve(nn.MaxPool2d):
    """A 2×2 max pool of maps larger than `least` pixels on their shorter side; others pass."""

    def __init__(self, least: int) -> None:
        super().__init__(kernel_size=2)
        self.least = least

    def forward(self, input: Tensor) -> Tensor:
        """[B, D, H, W] to [B, D, H / 2, W / 2], or unchanged."""
        return super().forward(input) if min(input.shape[2:]) > self.least else input


class VGG(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; the maps of block1 to 4 are H to H / 8.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count.
        depth: 8, 11, 13, 16 or 19; the three linear layers of the paper count.
    """

    def __init__(self, *, classes: int, channels: int, width: float, depth: int) -> None:
        if depth not in CONVOLUTIONS:
            raise UsageError(f"depth={depth}: expected one of {', '.join(map(str, CONVOLUTIONS))}")
        one, two, three, four, five = CONVOLUTIONS[depth]
        first, second, third, fourth, fifth = (scaled(count, width) for count in FILTERS)
        fc = nn.Linear(fifth, classes)
        super().__init__(
            OrderedDict(
                block1=_block(channels, first, one),
                pool1=Halve(least=1),
                block2=_block(first, second, two),
                pool2=Halve(least=1),
                block3=_block(second, third, three),
                pool3=Halve(least=1),
                block4=_block(third, fourth, four),
                pool4=Halve(least=4),
                block5=_block(fourth, fifth, five),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=fc,
            )
        )
        he_normal(self)
        nn.init.normal_(fc.weight, std=0.01)
        nn.init.zeros_(fc.bias)


def _block(source: int, target: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in [source, *[target] * (convolutions - 1)]:
        layers += [nn.Conv2d(inputs, target, 3, padding=1), nn.BatchNorm2d(target), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
