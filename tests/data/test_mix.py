"""Mixup, cutmix and label smoothing: what the target says must be what the picture shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab.data.mix import Mix, beta_quantiles

COUNT = 1000


def shown(mix: Mix, side: int = 16) -> tuple[Tensor, Tensor]:
    """Mixes pictures whose channel c is 1 where the picture is of class c, and 0 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (COUNT,), generator=generator)
    input = torch.nn.functional.one_hot(target, 5).float()[:, :, None, None].expand(-1, -1, side, side)
    return mix(input, target, torch.rand(COUNT, 5, generator=generator))


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_a_target_holds_each_class_in_the_share_of_the_picture_that_shows_it(settings: dict[str, float]) -> None:
    input, target = shown(Mix(5, **settings))
    assert torch.allclose(input.mean((2, 3)), target, atol=1e-5)
    assert torch.allclose(target.sum(1), torch.ones(COUNT), atol=1e-5)


def test_mixup_blends_every_pixel_and_cutmix_none() -> None:
    blended, _ = shown(Mix(5, mixup=1.0))
    assert blended.var((2, 3)).max() < 1e-10, "one share for the whole picture"
    cut, _ = shown(Mix(5, cutmix=1.0))
    assert set(cut.unique().tolist()) == {0.0, 1.0}


def test_the_piece_that_cutmix_puts_in_is_one_box() -> None:
    own = torch.zeros(50, 1, 16, 16)
    own[:25] = 1
    draws = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))
    draws[:, 0] = torch.arange(50).roll(25) / 50  # the partner of each is of the other half
    cut, _ = Mix(2, cutmix=1.0)(own, torch.zeros(50, dtype=torch.long), draws)
    for foreign in (cut != own)[:, 0]:
        assert torch.equal(foreign, foreign.any(1)[:, None] & foreign.any(0))


def test_with_both_half_of_the_samples_have_each() -> None:
    input, target = shown(Mix(5, mixup=1.0, cutmix=1.0))
    mixed = target.amax(1) < 1 - 1e-6
    cut = input[mixed].var((2, 3)).amax(1) > 1e-10
    assert abs(float(cut.float().mean()) - 0.5) < 0.07


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    # Mean 1/2 and variance 1 / (4 (2α + 1)), as of any Beta(α, α).
    table = beta_quantiles(alpha)
    middle = (table[1:] + table[:-1]) / 2
    assert float(middle.mean()) == pytest.approx(0.5, abs=1e-3)
    assert float(middle.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)
    assert (table[0], table[-1]) == (0, 1)


def test_every_sample_is_the_partner_of_one() -> None:
    # Classes 0 to 63, one sample each: what a class has in total is one, its own share and one partner's rest.
    draws = torch.rand(64, 5, generator=torch.Generator().manual_seed(0))
    _, shares = Mix(64, mixup=1.0)(torch.zeros(64, 1, 2, 2), torch.arange(64), draws)
    partners = (shares.clone().fill_diagonal_(0) > 0).sum(0)
    assert partners.max() == 1
    assert partners.sum() >= 62, "a sample may be its own partner"


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    input = torch.zeros(2, 1, 2, 2)
    same, shares = Mix(4, label_smoothing=0.1)(input, torch.tensor([0, 2]), torch.zeros(2, 0))
    assert same is input
    assert torch.allclose(shares, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]))


def test_without_settings_labels_pass_unchanged_minus_one_included() -> None:
    target = torch.tensor([3, -1])
    assert Mix(4)(torch.zeros(2, 1, 2, 2), target, torch.zeros(2, 0))[1] is target
