"""fitnet: one hint through a learned regressor."""

import pytest
import torch

from kdlab.config.compose import compose
from kdlab.core.knowledge import Context, Fields
from kdlab.heads.feature.fitnet import FitNet, fitnet_loss, regressor
from kdlab.networks.observer import Observer, find_taps
from kdlab.run.make_network import make_network
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)


def built(ours: torch.Tensor, theirs: torch.Tensor) -> FitNet:
    head = FitNet(stage=-1)
    head.build(example(ours), example(theirs), CONTEXT)
    return head.double()


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 4, 5, 2), (2, 7, 1, 1)])
def test_fitnet_is_the_mean_squared_difference(shape):
    student, teacher = wave(*shape), wave(*shape, phase=1.0, step=0.7)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert fitnet_loss(student, teacher).item() == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / len(pairs))


def test_the_larger_map_is_average_pooled():
    teacher = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert fitnet_loss(torch.tensor([[[[6.0]]]]), teacher).item() == 4.0


def test_fitnet_has_the_value_of_published_code():
    """HobbitLong/RepDistiller, models/util.py at eedab9d: ConvReg (its bias is taken out again by the batch
    normalisation) in train mode; distiller_zoo/FitNet.py at 1e2f816: HintLoss."""
    student, teacher = wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 10, 4, 4, phase=1.5, step=0.61)
    head = built(student, teacher)
    with torch.no_grad():
        head.regressor[0].weight.copy_(wave(10, 6, 1, 1, step=0.9, scale=0.3))
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).item() == pytest.approx(0.9390682144790489, rel=1e-9)


# HobbitLong/RepDistiller, models/util.py:138-143 at eedab9d, ConvReg: the kernel, stride and kind of each case.
@pytest.mark.parametrize(
    ("ours", "theirs", "layer", "regressed"),
    [
        ((8, 8), (8, 8), ("Conv2d", (1, 1), (1, 1)), (8, 8)),
        ((8, 8), (4, 4), ("Conv2d", (3, 3), (2, 2)), (4, 4)),
        ((8, 8), (16, 16), ("ConvTranspose2d", (4, 4), (2, 2)), (16, 16)),
        ((14, 14), (8, 8), ("Conv2d", (7, 7), (1, 1)), (8, 8)),
        ((16, 8), (4, 4), ("Conv2d", (13, 5), (1, 1)), (4, 4)),
        ((2, 2), (8, 8), ("Conv2d", (1, 1), (1, 1)), (2, 2)),  # which they have no case for
    ],
)
def test_the_regressor_brings_the_students_map_to_the_size_of_the_hint(ours, theirs, layer, regressed):
    student, teacher = wave(2, 3, *ours), wave(2, 5, *theirs)
    head = built(student, teacher)
    convolution = head.regressor[0]
    assert (type(convolution).__name__, convolution.kernel_size, convolution.stride) == layer
    assert head.regressor(student).shape == (2, 5, *regressed)
    assert head(knows(student), knows(teacher), LESSON, PROGRESS).isfinite()


def test_a_transposed_convolution_adds_each_value_to_four_by_four_places():
    """As it is defined: out[2i + a − 1, 2j + b − 1] += in[i, j] · kernel[a, b]."""
    given, kernel = wave(1, 2, 3, 3).float(), wave(2, 1, 4, 4, step=0.9).float()
    layer = regressor((1, 2, 3, 3), (1, 1, 6, 6))
    with torch.no_grad():
        layer.weight.copy_(kernel)
    expected = torch.zeros(8, 8)
    for channel in range(2):
        for i in range(3):
            for j in range(3):
                expected[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += given[0, channel, i, j] * kernel[channel, 0]
    torch.testing.assert_close(layer(given)[0, 0], expected[1:-1, 1:-1])


# The maps feat[2] of models/resnet.py, mobilenetv2.py and resnetv2.py there, on pictures of 32 pixels.
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet8x4", (128, 16, 16)),
        ("mobilenet_half", (16, 8, 8)),
        ("resnet50", (512, 16, 16)),
        ("wrn_16_2", (64, 16, 16)),
    ],
)
def test_the_hint_is_the_third_map_of_published_networks(name, hint):
    config = compose([f"model={name}", "data=cifar100", "loss=fitnet"])
    batch = torch.randn(1, 3, 32, 32)
    network = make_network(config.model)
    (place,) = FitNet(config.loss.heads["fitnet"].options["stage"]).needs().learner.stages
    with Observer(network, find_taps(network, batch, config.model["taps"]), Fields(stages=(place,))) as observer:
        assert observer.example({"input": batch}).knowledge.stage(place).shape[1:] == hint


def test_a_network_without_that_stage_is_refused_by_name():
    head = FitNet(stage=-2)
    with pytest.raises(ValueError, match="small stage -2 has no map"):
        head.build(example(wave(2, 3, 4, 4), name="small"), example(wave(2, 3, 4, 4), wave(2, 3, 2, 2)), CONTEXT)
