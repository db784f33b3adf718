"""MobileNetV2 for small images, from the literature's student down to a few thousand parameters.

Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018,
table 2.

    y = F(x) + x, F: 1×1 expand, ReLU, 3×3 depthwise, ReLU, 1×1 project (linear); x where the shape is kept

As in RepDistiller (Tian et al., ICLR 2020): activations are ReLU, not ReLU6, and a block that does not
expand (t = 1) still has its first 1×1 convolution. Its student, `mobilenet_half`, also keeps the
resolution in the second stage, so that an image of 32 pixels ends as a 2×2 map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from kdlab.models.layers import conv_norm, he_normal, scaled


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; the input is added where the shape is kept."""

    def __init__(self, source: int, target: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = source * expansion
        self.branch = nn.Sequential(
            *conv_norm(source, middle, 1),
            nn.ReLU(inplace=True),
            *conv_norm(middle, middle, 3, stride=stride, groups=middle),
            nn.ReLU(inplace=True),
            *conv_norm(middle, target, 1),
        )
        self.residual = stride == 1 and source == target

    def forward(self, features: Tensor) -> Tensor:
        """[B, source, H, W] to [B, target, H / stride, W / stride]."""
        result: Tensor = self.branch(features)
        return features + result if self.residual else result


class MobileNetV2(nn.Sequential):
    """Images [B, channels, H, W] to logits [B, classes]; its maps are `stem`, `stage1` and so on, and `head`.

    Args:
        classes: number of outputs.
        channels: of the input.
        width: multiplies every channel count.
        stride: of the stem: 2 in the paper, 1 for images of a few pixels.
        stages: the paper's table, a row [t, c, n, s] for each stage: expansion, channels before `width`,
            number of blocks, and stride of the first of them.
        last: channels of the last 1×1 convolution, untouched by `width` (the paper keeps 1280 where width
            is below 1); None: 1280 times `width`.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: float,
        stride: int,
        stages: Sequence[Sequence[int]],
        last: int | None,
    ) -> None:
        source = scaled(32, width)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(*conv_norm(channels, source, 3, stride=stride), nn.ReLU(inplace=True))
        )
        for number, (expansion, filters, blocks, step) in enumerate(stages, start=1):
            target = scaled(filters, width)
            rest = (InvertedResidual(target, target, 1, expansion) for _ in range(blocks - 1))
            parts[f"stage{number}"] = nn.Sequential(InvertedResidual(source, target, step, expansion), *rest)
            source = target
        last = scaled(1280, width) if last is None else last
        parts["head"] = nn.Sequential(*conv_norm(source, last, 1), nn.ReLU(inplace=True))
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["fc"] = fc = nn.Linear(last, classes)
        super().__init__(parts)
        he_normal(self)
        nn.init.normal_(fc.weight, std=0.01)
        nn.init.zeros_(fc.bias)
