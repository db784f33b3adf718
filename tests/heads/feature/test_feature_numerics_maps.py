"""What the heads that compare maps have in common: any shapes, any float type, extreme values, gradients."""

import pytest
import torch
from torch import Tensor

from kdlab.core.knowledge import Context
from kdlab.heads.feature.ab import AB
from kdlab.heads.feature.at import AT
from kdlab.heads.feature.cwd import CWD
from kdlab.heads.feature.fitnet import FitNet
from kdlab.heads.feature.ft import FT
from kdlab.heads.feature.nst import NST
from kdlab.heads.feature.ofd import OFD
from kdlab.heads.feature.vid import VID
from kdlab.heads.head import Head
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)
HEADS = {
    "fitnet": lambda: FitNet(stage=-1),
    "at": AT,
    "nst": NST,
    "ft": lambda: FT(stage=-1, variant="paraphraser", rate=0.5),
    "ft_channel_mean": lambda: FT(stage=-1, variant="channel_mean", rate=0.5),
    "ab": lambda: AB(margin=1.0),
    "vid": lambda: VID(raw_variance=5.0),
    "ofd": OFD,
    "cwd": lambda: CWD(stage=-1, temperature=4.0),
}
every_head = pytest.mark.parametrize("name", HEADS)

CNN = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
SHAPES = {
    "wider": [(6, 8, 8), (9, 4, 4), (12, 2, 2)],
    "another resolution": [(6, 7, 7), (9, 5, 5), (12, 3, 3)],
    "two stages": [(6, 8, 8), (9, 4, 4)],
    "four stages": [(3, 16, 16), (6, 8, 8), (9, 4, 4), (12, 4, 4)],
    "tokens": [(16, 5), (16, 5), (16, 5)],
    "tokens with a class token": [(17, 5), (17, 5)],
}


def maps(shapes: list[tuple[int, ...]], samples: int = 2, phase: float = 0.0) -> list[Tensor]:
    return [wave(samples, *shape, phase=phase + place, step=0.61) for place, shape in enumerate(shapes)]


def loss(head: Head, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """The head's value, from no more than it declared in `needs`."""
    needs = head.needs()
    return head(knows(*ours).only(needs.learner), knows(*theirs).only(needs.teacher), LESSON, PROGRESS)


def built(name: str, ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype = torch.float64) -> Head:
    torch.manual_seed(0)
    head = HEADS[name]()
    head.build(example(*ours, name="small"), example(*theirs, name="big"), CONTEXT)
    return head.to(dtype)


def learning(values: list[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [value.to(dtype).requires_grad_() for value in values]


@every_head
@pytest.mark.parametrize("teacher", SHAPES)
def test_a_network_learns_from_maps_of_any_other_shape_and_the_other_way_round(name, teacher):
    for shapes in ((CNN, SHAPES[teacher]), (SHAPES[teacher], CNN)):
        ours, theirs = learning(maps(shapes[0])), maps(shapes[1], phase=1.0)
        value = loss(built(name, ours, theirs), ours, theirs)
        assert value.shape == ()
        value.backward()
        assert ours[-1].grad.abs().sum() > 0


@every_head
def test_every_learned_part_is_trained(name):
    ours, theirs = learning(maps(CNN)), maps(SHAPES["wider"], phase=1.0)
    head = built(name, ours, theirs)
    loss(head, ours, theirs).backward()
    idle = [key for key, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert all(key.startswith("paraphraser.") for key in idle)


@every_head
def test_the_value_has_the_gradient_that_it_claims(name):
    ours, theirs = maps([(2, 4, 4), (3, 2, 2)]), maps([(3, 4, 4), (2, 2, 2)], phase=1.0)
    head = built(name, ours, theirs)
    assert torch.autograd.gradcheck(lambda *values: loss(head, [*values], theirs), [*learning(ours)])


@every_head
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_raised_to_float32(name, dtype):
    theirs = [(300 * value).to(dtype) for value in maps(SHAPES["wider"], phase=1.0)]  # 300² is not a float16
    ours = learning([300 * value for value in maps(CNN)], dtype)
    value = loss(built(name, ours, theirs, dtype), ours, theirs)
    assert value.dtype == torch.float32
    value.backward()
    assert value.isfinite()
    assert ours[-1].grad.isfinite().all()


@every_head
@pytest.mark.parametrize("scale", [0.0, 1000.0])
@pytest.mark.parametrize("samples", [1, 2])
def test_silent_and_loud_maps_and_single_samples_stay_finite(name, scale, samples):
    theirs = [scale * value for value in maps(SHAPES["wider"], samples, phase=1.0)]
    ours = learning([scale * value for value in maps(CNN, samples)], torch.float32)
    theirs = [value.float() for value in theirs]
    head = built(name, ours, theirs, torch.float32)
    value = loss(head, ours, theirs)
    value.backward()
    assert value.isfinite()
    gradients = [tensor.grad for tensor in (*ours, *head.parameters()) if tensor.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_head
def test_the_order_of_the_batch_does_not_matter(name):
    ours, theirs = maps(CNN, 3), maps(SHAPES["wider"], 3, phase=1.0)
    head = built(name, ours, theirs)
    turned = loss(head, [value.roll(1, 0) for value in ours], [value.roll(1, 0) for value in theirs])
    torch.testing.assert_close(turned, loss(head, ours, theirs))


@every_head
def test_a_saved_head_says_the_same_after_loading(name):
    ours, theirs = maps(CNN), maps(SHAPES["wider"], phase=1.0)
    head, other = built(name, ours, theirs), built(name, [2 * value for value in ours], [3 * value for value in theirs])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.1)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(loss(other, ours, theirs), loss(head, ours, theirs), rtol=0, atol=0)
