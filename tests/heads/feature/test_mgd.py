import pytest
import torch
from torch import Tensor

from kdlab.core.knowledge import Context, Example
from kdlab.heads.feature.mgd import MGD, Mask, masked, mgd_loss
from support.feature_examples import LESSON, PROGRESS, example, fill, wave

CONTEXT = Context(classes=5, samples=10)


def built(learner: Example, teacher: Example, mask: Mask = "channels", ratio: float = 0.0) -> MGD:
    head = MGD(stage=-1, mask=mask, ratio=ratio)
    head.build(learner, teacher, CONTEXT)
    fill(head.double())
    return head


def ask(head: MGD, learner: Example, teacher: Example) -> Tensor:
    return head(learner.knowledge, teacher.knowledge, LESSON, PROGRESS)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 5, 1, 1), (4, 2, 3, 5)])
def test_the_loss_is_the_equation_written_out(shape: tuple[int, ...]) -> None:
    generated, teacher = wave(*shape), wave(*shape, step=0.91)
    pairs = zip(generated.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((one - other) ** 2 for one, other in pairs) / shape[0]
    assert mgd_loss(generated, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_sums_over_a_sample_and_averages_over_samples() -> None:
    assert mgd_loss(torch.full((4, 2, 3, 5), 2.0), torch.zeros(4, 2, 3, 5)).item() == 4 * 2 * 3 * 5


@pytest.mark.parametrize(
    ("mask", "channels", "value"),
    [
        ("channels", 3, 50.329773125611496),  # cls/mmcls/distillation/losses/mgd.py, with its 1×1 alignment
        ("channels", 5, 55.76835710889957),  # the same, without
        ("positions", 3, 50.78801140689056),  # det/mmdet/distillation/losses/mgd.py
    ],
)
def test_the_head_gives_what_the_authors_code_gives(
    mask: Mask, channels: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # yzd-v/MGD, commit 046aba2d, weight 1 and ratio 0.4; parameters and masks are made from the same waves in both.
    # The detection code masks where its random number is large, the classification code where it is small.
    sign = 1 if mask == "channels" else -1
    monkeypatch.setattr(torch, "rand", lambda shape, device: (sign * wave(*shape, step=1.7) + 1) / 2)
    learner, teacher = example(wave(2, channels, 4, 4)), example(wave(2, 5, 4, 4, step=0.91))
    assert ask(built(learner, teacher, mask, 0.4), learner, teacher).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("mask", "together"), [("channels", (2, 3)), ("positions", (1,))])
def test_a_mask_drops_whole_channels_or_positions_in_the_given_share(mask: Mask, together: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    zero = masked(torch.ones(32, 20, 20, 20), 0.3, mask) == 0
    share = zero.float().mean(together)
    assert ((share == 0) | (share == 1)).all()
    assert share.mean().item() == pytest.approx(0.3, abs=0.06)  # four deviations of 640 draws
    assert not torch.equal(zero[0], zero[1])


def test_what_a_mask_keeps_is_not_scaled() -> None:
    features = wave(2, 3, 4, 4)
    assert torch.equal(masked(features, 0.0, "channels"), features)


@pytest.mark.parametrize("sides", [(8, 4), (4, 8)])
def test_the_larger_map_is_pooled_to_the_smaller(sides: tuple[int, int]) -> None:
    maps = [wave(2, 5, side, side, phase=side) for side in sides]
    learner, teacher = (example(features) for features in maps)
    head = built(learner, teacher)
    ours, theirs = (features if side == 4 else halved(features) for side, features in zip(sides, maps, strict=True))
    expected = ((head.generation(ours) - theirs) ** 2).sum().item() / 2
    assert ask(head, learner, teacher).item() == pytest.approx(expected, rel=1e-12)


def halved(features: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    return features.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))


@pytest.mark.parametrize(
    ("mask", "ratio", "message"),
    [("pixels", 0.1, "'pixels'"), ("channels", 1.0, r"ratio=1\.0"), ("channels", -0.1, "-0.1")],
)
def test_a_setting_without_meaning_is_refused(mask: Mask, ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MGD(stage=-1, mask=mask, ratio=ratio)
