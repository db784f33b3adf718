"""Augmentation, one batch at a time, on the batch's device.

Every random number is a counter hash of (seed, index, view). So the result for a
sample does not depend on the batch, the rank or earlier batches, unless `mixup` or `cutmix` mixes it with another
sample of its batch (`pure` says which). The order is that of the published CIFAR recipes:

    crop → flip → randaugment → rotate, scale and shift → normalise → mix

Pixels from outside the picture are black, as when a picture is padded before it is normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import radians

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, pad

from kdlab.data.counter_rng import AUGMENT, uniform
from kdlab.data.mix import Mix
from kdlab.data.randaugment import RandAugment

# The columns of the random numbers of a sample: fixed per purpose, whatever else is enabled.
TOP, LEFT, FLIP, ANGLE, DOWN, RIGHT, ZOOM = range(7)
MIX = slice(7, 12)
OPERATIONS = MIX.stop


class Augment(nn.Module):
    """Turns uint8 pictures into a network's input.

    Args:
        mean: per channel, or one for all, of pixels from 0 to 1.
        std: likewise.
        classes: the number of classes, for targets that mix several.
        crop: pad by this many pixels on each side and crop the old size at random.
        flip: mirror half of the pictures.
        rotation: rotate by up to this many degrees either way.
        translation: shift by up to this fraction of the side, either way, along each axis.
        scaling: enlarge by a factor between these two.
        randaugment: `operations` for each picture, of this `magnitude`; None for none. See `kdlab.data.randaugment`.
        mixup: the parameter of its Beta distribution; 0 for none. See `kdlab.data.mix`.
        cutmix: likewise.
        label_smoothing: the share of a target that is spread over all classes.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        *,
        crop: int = 0,
        flip: bool = False,
        rotation: float = 0.0,
        translation: float = 0.0,
        scaling: tuple[float, float] | None = None,
        randaugment: Mapping[str, int | None] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.crop, self.flip = crop, flip
        self.rotation, self.translation, self.scaling = rotation, translation, scaling
        self.randaugment = None if randaugment is None else RandAugment(**randaugment)  # type: ignore[arg-type]
        self.mix = Mix(classes, mixup=mixup, cutmix=cutmix, label_smoothing=label_smoothing)
        deviation = torch.tensor(std)[:, None, None]
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("bias", -torch.tensor(mean)[:, None, None] / deviation)

    @property
    def pure(self) -> bool:
        """Whether a sample's input and target depend on (seed, index, view) alone, so that answers can be cached."""
        return not self.mix.mixes

    @property
    def soft(self) -> bool:
        """Whether targets are shares of classes, [B, classes] float, instead of classes [B] int64."""
        return self.mix.soft

    def draw(self, seed: int, index: Tensor, view: Tensor) -> Tensor:
        """The random numbers [B, n] in [0, 1) for the samples `index` [B] in their `view` [B]."""
        moves = self.crop or self.flip
        count = MIX.stop if self.mix.mixes else MIX.start if self._affine else ANGLE if moves else 0
        if self.randaugment is not None:
            count = OPERATIONS + self.randaugment.draws
        return uniform(seed, index, view, AUGMENT, count)

    def forward(self, images: Tensor, target: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The input [B, C, H, W] float32 and the target, of uint8 images [B, C, H, W] with classes [B].

        Args:
            draws: what `draw` returned for these samples.
        """
        if self.crop or self.flip:
            images = self._cropped(images, draws)
        pixels = images.float()
        if self.randaugment is not None:
            pixels = self.randaugment(pixels, draws[:, OPERATIONS:])
        if self._affine:
            pixels = self._moved(pixels, draws)
        mixed: tuple[Tensor, Tensor] = self.mix(pixels.mul_(self.scale).add_(self.bias), target, draws[:, MIX])
        return mixed

    @property
    def _affine(self) -> bool:
        return bool(self.rotation or self.translation or self.scaling)

    def _cropped(self, images: Tensor, draws: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        span = 2 * self.crop + 1
        corner = (draws[:, (TOP, LEFT)] * span).long().clamp_(max=span - 1)
        rows = corner[:, :1] + torch.arange(height, device=images.device)
        columns = corner[:, 1:] + torch.arange(width, device=images.device)
        if self.flip:
            columns = torch.where(draws[:, FLIP, None] < 0.5, columns.flip(1), columns)
        padded = pad(images, [self.crop] * 4)
        places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        places = places.view(count, 1, -1).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, places).view(images.shape)

    def _moved(self, pixels: Tensor, draws: Tensor) -> Tensor:
        # affine_grid takes, in coordinates from -1 to 1, where each pixel of the result comes from.
        height, width = pixels.shape[2:]
        either_way = 2 * draws - 1
        angle = either_way[:, ANGLE] * radians(self.rotation)
        smallest, largest = self.scaling or (1.0, 1.0)
        zoom = smallest + (largest - smallest) * draws[:, ZOOM]
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        turn = torch.stack([cos, sin * height / width, -sin * width / height, cos], dim=1).view(-1, 2, 2)
        shift = either_way[:, (RIGHT, DOWN), None] * (2 * self.translation)
        grid = affine_grid(torch.cat([turn, -turn @ shift], dim=2), list(pixels.shape), align_corners=False)
        return grid_sample(pixels, grid, align_corners=False)
