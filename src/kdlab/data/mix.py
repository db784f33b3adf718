"""Targets that are shares of classes: mixup, cutmix, label smoothing.

mixup: Zhang, Cissé, Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk Minimization. ICLR 2018.

    x = λ x_i + (1 - λ) x_j,  y = λ y_i + (1 - λ) y_j,  λ ~ Beta(α, α)

cutmix: Yun et al. CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.
ICCV 2019: a box with 1 - λ of the area, around a uniform centre, comes from x_j; λ is corrected
for the part of the box outside the picture.

label smoothing: Szegedy et al. Rethinking the Inception Architecture for Computer Vision. CVPR 2016.

    y = (1 - ε) y + ε / C

Each sample has its own λ, from its own random numbers; the partners are a permutation of the batch, drawn from
its samples' random numbers. With both mixup and cutmix a sample has one of them, with equal chances. Samples
without a label cannot be mixed or smoothed: a share of classes has no way to say "unlabelled".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARTNER, SHARE, WHICH, CENTRE_Y, CENTRE_X = range(5)

RESOLUTION = 4096


class Mix(nn.Module):
    """Mixes the samples of a batch, or smooths their labels; changes nothing where all settings are 0."""

    mixup: Tensor | None
    cutmix: Tensor | None

    def __init__(self, classes: int, *, mixup: float = 0.0, cutmix: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classes = classes
        self.label_smoothing = label_smoothing
        self.register_buffer("mixup", beta_quantiles(mixup) if mixup else None)
        self.register_buffer("cutmix", beta_quantiles(cutmix) if cutmix else None)

    @property
    def mixes(self) -> bool:
        """Whether a sample is mixed with another of its batch."""
        return self.mixup is not None or self.cutmix is not None

    @property
    def soft(self) -> bool:
        """Whether targets are shares of classes."""
        return self.mixes or bool(self.label_smoothing)

    def forward(self, input: Tensor, target: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Input [B, C, H, W] and target: [B, classes] float where soft, else [B] unchanged.

        Args:
            input: normalised.
            target: classes [B], none of them -1 where soft.
            draws: [B, 5] in [0, 1).
        """
        if not self.soft:
            return input, target
        rest = self.label_smoothing / self.classes
        shares = input.new_full((len(target), self.classes), rest)
        shares.scatter_(1, target[:, None], 1 - self.label_smoothing + rest)
        if not self.mixes:
            return input, shares
        partner = draws[:, PARTNER].argsort()
        ours = self._ours(input.shape[2:], draws)
        input = torch.lerp(input[partner], input, ours)
        return input, torch.lerp(shares[partner], shares, ours.mean((2, 3)))

    def _ours(self, size: torch.Size, draws: Tensor) -> Tensor:
        # The share of each pixel that stays the sample's: [B, 1, 1, 1] for mixup, [B, 1, H, W] for cutmix.
        blend = None if self.mixup is None else _quantile(self.mixup, draws[:, SHARE])[:, None, None, None]
        if self.cutmix is None:
            assert blend is not None, "only what mixes comes here"
            return blend
        side = (1 - _quantile(self.cutmix, draws[:, SHARE])).sqrt()
        down = _within(draws[:, CENTRE_Y], side, size[0])[:, None, :, None]
        across = _within(draws[:, CENTRE_X], side, size[1])[:, None, None, :]
        outside = (~(down & across)).to(draws.dtype)
        return outside if blend is None else torch.where(draws[:, WHICH, None, None, None] < 0.5, blend, outside)


def beta_quantiles(alpha: float) -> Tensor:
    """The quantile function of Beta(α, α) at 4097 even steps of probability from 0 to 1."""
    import numpy as np
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # scikit-learn brings it

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, RESOLUTION + 1))).float()


def _quantile(table: Tensor, probability: Tensor) -> Tensor:
    place = probability * RESOLUTION
    below = place.long()
    return torch.lerp(table[below], table[below + 1], place - below)


def _within(centre: Tensor, side: Tensor, length: int) -> Tensor:
    pixels = torch.arange(length, device=centre.device) + 0.5
    return (pixels - centre[:, None] * length).abs() < side[:, None] * length / 2
