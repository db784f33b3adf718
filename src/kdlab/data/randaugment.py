"""RandAugment: a few operations of one strength, drawn for each picture and applied in turn.

Cubuk, Zoph, Shlens, Le. RandAugment: Practical Automated Data Augmentation with a Reduced Search Space. NeurIPS 2020.
Operations and their ranges are torchvision's, in 31 steps of strength; what each does to a picture of bytes is
Pillow's arithmetic, where rounding leaves a level of difference at most.

A whole batch goes through every operation at once, and each picture keeps the result of its own operation: nothing
waits for the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import radians

import torch
from torch import Tensor
from torch.nn.functional import conv2d

LEVELS = 30
"""The largest magnitude; there are as many steps below it."""

GREY = (19595, 38470, 7471)
"""The shares of red, green and blue in brightness, in 65536ths (ITU-R 601-2)."""


class RandAugment:
    """Draws `operations` operations for each picture, with replacement.

    Args:
        operations: how many, one after the other.
        magnitude: their strength, from 0 to 30; None: drawn for each operation and picture.
    """

    def __init__(self, operations: int, magnitude: int | None) -> None:
        self.operations, self.magnitude = operations, magnitude

    @property
    def draws(self) -> int:
        """How many random numbers a picture takes: for each operation its choice, sign and strength."""
        return 3 * self.operations

    def __call__(self, pictures: Tensor, draws: Tensor) -> Tensor:
        """Pictures [B, C, H, W] float of whole numbers from 0 to 255, and the same.

        Args:
            draws: [B, `draws`] in [0, 1).
        """
        for place in range(self.operations):
            which, sign, strength = draws[:, 3 * place : 3 * place + 3].unbind(1)
            if self.magnitude is not None:
                strength = torch.full_like(strength, self.magnitude / LEVELS)
            chosen = (which * len(OPERATIONS)).long()
            pictures = apply(pictures, chosen, torch.where(sign < 0.5, -strength, strength))
        return pictures


def apply(pictures: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
    """Each picture of a batch [B, C, H, W] after the operation [B] chosen for it, at its strength [B] from −1 to 1."""
    result = pictures
    for place, operation in enumerate(OPERATIONS.values()):
        mine = (chosen == place)[:, None, None, None]
        result = torch.where(mine, operation(pictures, strength[:, None, None, None]), result)
    return result


def blended(degenerate: Tensor, pictures: Tensor, strength: Tensor) -> Tensor:
    """degenerate + (1 + 0.9 · strength) · (pictures − degenerate), cut off to a byte."""
    return (degenerate + (1 + 0.9 * strength) * (pictures - degenerate)).clamp(0, 255).floor()


def grey(pictures: Tensor) -> Tensor:
    """The brightness of pictures [B, C, H, W], as [B, 1, H, W]."""
    if pictures.shape[1] == 1:
        return pictures
    shares = torch.tensor(GREY, device=pictures.device)[:, None, None]
    return ((pictures.long() * shares).sum(1, keepdim=True) + 0x8000).div(0x10000, rounding_mode="floor").float()


def brightness(pictures: Tensor, strength: Tensor) -> Tensor:
    return blended(torch.zeros_like(pictures), pictures, strength)


def color(pictures: Tensor, strength: Tensor) -> Tensor:
    return blended(grey(pictures).expand_as(pictures), pictures, strength)


def contrast(pictures: Tensor, strength: Tensor) -> Tensor:
    mean = (grey(pictures).mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return blended(mean, pictures, strength)


def sharpness(pictures: Tensor, strength: Tensor) -> Tensor:
    smooth = pictures.clone()
    if min(pictures.shape[2:]) > 2:
        kernel = torch.ones(pictures.shape[1], 1, 3, 3, device=pictures.device)
        kernel[:, :, 1, 1] = 5
        inner = conv2d(pictures, kernel, groups=pictures.shape[1])
        smooth[:, :, 1:-1, 1:-1] = (inner / 13 + 0.5).floor()
    return blended(smooth, pictures, strength)


def posterize(pictures: Tensor, strength: Tensor) -> Tensor:
    """The lowest 0 to 4 bits become 0."""
    step = 2 ** (4 * strength.abs()).round()
    return (pictures / step).floor() * step


def solarize(pictures: Tensor, strength: Tensor) -> Tensor:
    """Bytes from a threshold on, which falls from 255 to 0, are inverted."""
    return torch.where(pictures < 255 * (1 - strength.abs()), pictures, 255 - pictures)


def autocontrast(pictures: Tensor, strength: Tensor) -> Tensor:
    """Each channel is stretched to the whole range."""
    least, most = pictures.amin((2, 3), keepdim=True), pictures.amax((2, 3), keepdim=True)
    stretched = (255 * (pictures - least) / (most - least).clamp(min=1)).floor()
    return torch.where(most > least, stretched, pictures)


def equalize(pictures: Tensor, strength: Tensor) -> Tensor:
    """Each channel is mapped so that all values become about as frequent."""
    values = pictures.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=pictures.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, values), values).view(pictures.shape).float()


def moved(pictures: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Pictures resampled from other positions, nearest neighbour; black from outside.

    Args:
        across: source position, in pixels from the left edge: [B, 1, H, W], or broadcastable to it.
        down: likewise from the upper edge.
    """
    height, width = pictures.shape[2:]
    size = (len(pictures), 1, height, width)
    column, row = across.floor().long().expand(size), down.floor().long().expand(size)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    taken = pictures.flatten(2).gather(2, places.flatten(2).expand(*pictures.shape[:2], -1))
    return taken.view(pictures.shape) * inside


def centres(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The centres of the pixels, across [1, 1, 1, W] and down [1, 1, H, 1]."""
    height, width = (torch.arange(side, device=pictures.device) + 0.5 for side in pictures.shape[2:])
    return width[None, None, None, :], height[None, None, :, None]


def shear_x(pictures: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3 pixels for each row, from the upper edge on."""
    x, y = centres(pictures)
    return moved(pictures, x + 0.3 * strength * y, y)


def shear_y(pictures: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3 pixels for each column, from the left edge on."""
    x, y = centres(pictures)
    return moved(pictures, x, y + 0.3 * strength * x)


def translate_x(pictures: Tensor, strength: Tensor) -> Tensor:
    """By whole pixels, up to 150/331 of the width."""
    x, y = centres(pictures)
    return moved(pictures, x - (strength * (150 / 331 * pictures.shape[3])).trunc(), y)


def translate_y(pictures: Tensor, strength: Tensor) -> Tensor:
    """By whole pixels, up to 150/331 of the height."""
    x, y = centres(pictures)
    return moved(pictures, x, y - (strength * (150 / 331 * pictures.shape[2])).trunc())


def rotate(pictures: Tensor, strength: Tensor) -> Tensor:
    """Counter-clockwise about the middle, by up to 30 degrees."""
    x, y = centres(pictures)
    height, width = pictures.shape[2:]
    x, y = x - width / 2, y - height / 2
    cos, sin = (strength * radians(30)).cos(), (strength * radians(30)).sin()
    return moved(pictures, cos * x - sin * y + width / 2, sin * x + cos * y + height / 2)


OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda pictures, strength: pictures,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
"""From pictures [B, C, H, W] and their strengths [B, 1, 1, 1] from −1 to 1; a meaningless sign is ignored."""
