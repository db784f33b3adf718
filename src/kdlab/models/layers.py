"""Shared by several networks: scaling of channels, initial weights, channel shuffle."""

from __future__ import annotations

from math import isfinite

from torch import Tensor, nn

from kdlab.core.errors import UsageError


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`channels` times `width`, to the nearest multiple of `multiple` and at least one of them.

    Raises:
        UsageError: where width is not a positive number.
    """
    if not (isfinite(width) and width > 0):
        raise UsageError(f"width={width}: expected a number above 0; it multiplies every channel count")
    return max(1, round(channels * width / multiple)) * multiple


def conv_norm(source: int, target: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A padded convolution without bias from `source` to `target` channels, and its batch normalisation."""
    conv = nn.Conv2d(source, target, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(target)]


def he_normal(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (kernel area · output channels)), with biases at zero.

    He et al., Delving Deep into Rectifiers, ICCV 2015, equation 14.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ChannelShuffle(nn.Module):
    """Deals the channels of `groups` groups out in turn, so that the next convolution reads from all.

    torch.nn.ChannelShuffle does the same, but has no kernel for Apple's GPUs.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Tensor) -> Tensor:
        """[B, D, H, W] to the same shape; D is a multiple of `groups`."""
        batch, channels, height, width = features.shape
        grouped = features.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).flatten(1, 2)
