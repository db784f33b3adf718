"""What simkd reads of the published networks, and what is left of a student that it is grafted onto.

DefangChen/SimKD, helper/loops.py:151: `feat_s[-2]` and `feat_t[-2]`, of the networks in its models/. What it calls
WRN is a residual network that ends in a rectifier (models/resnet.py:18-23), so its map is the one that is pooled.
"""

import pytest
import torch
from hydra.utils import get_class
from torch import Tensor, nn

from kdlab.core.knowledge import Example, Fields
from kdlab.heads.feature.simkd import SimKD, SimKDStudent
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed
from kdlab.run.make_network import make_network
from support.literature import config_of, images, observed

# Channels and side of feat[-2] on images of 32 pixels, and our layer.
PUBLISHED = {
    "resnet8x4": ((256, 8), "layer3"),  # models/resnet.py:175-176
    "wrn_16_2": ((128, 8), "relu"),  # models/resnet.py:175-176, resnet14x2
    "vgg8": ((512, 4), "block5"),  # models/vgg.py:72-74
    "shufflenet_v1": ((960, 4), "layer3"),  # HobbitLong/RepDistiller models/ShuffleNetv1.py:102-103
    "shufflenet_v2": ((464, 4), "layer3"),  # models/ShuffleNetv2.py:148-149
    "mobilenet_half": ((160, 2), "stage7"),  # models/mobilenetv2.py:138-140
}
TEACHERS = {"resnet8x4": (256, 8), "wrn_16_2": (128, 8), "vgg8": (512, 4)}
each_student = pytest.mark.parametrize("name", PUBLISHED)


def example(network: Observed) -> Example:
    network.listen(Fields(stages="all", embedding=True, classifier=True, final_map=True))
    found = network.example({"input": images()})
    network.close()
    return found


def grafted(name: str, teacher: str = "vgg8") -> tuple[SimKDStudent, SimKDStudent]:
    """A student after the graft, and the same rebuilt from its config and weights."""
    student = observed(name)
    made = SimKD(factor=2).graft(student.network, example(student), example(observed(teacher, width=0.25)))
    own = {key: value for key, value in config_of(name).items() if key != "taps"}
    again = make_network(made.config(own))
    assert isinstance(again, SimKDStudent)
    again.load_state_dict(made.state_dict())
    return made, again


@each_student
def test_the_projector_reads_the_published_map(name: str) -> None:
    (channels, side), layer = PUBLISHED[name]
    network, _ = grafted(name)
    given: list[Tensor] = []
    network.resize.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    network.eval()(images())
    assert network.settings["layer"] == layer
    assert given[0].shape == (2, channels, side, side)


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teachers_map_is_the_published_one_and_what_its_classifier_was_trained_on(name: str) -> None:
    channels, side = TEACHERS[name]
    teacher = example(observed(name))
    features = teacher.knowledge.before_pooling()
    assert features.shape == (2, channels, side, side)
    torch.testing.assert_close(teacher.classifier(features.mean((2, 3))), teacher.knowledge.logits)


@each_student
def test_a_grafted_student_keeps_nothing_that_it_no_longer_uses(name: str) -> None:
    network, _ = grafted(name)
    network.train()(images(4)).square().sum().backward()
    unused = {key for key, parameter in network.named_parameters() if parameter.grad is None}
    assert unused == {"classifier.weight", "classifier.bias"}  # the teacher's, which is frozen
    # Of the student: all parameters less its classifier and, in two, the last convolution and its normalisation.
    whole = sum(parameter.numel() for parameter in observed(name).network.parameters())
    dropped = {"mobilenet_half": 160 * 1280 + 2 * 1280, "shufflenet_v2": 464 * 1024 + 2 * 1024}.get(name, 0)
    length = {"mobilenet_half": 1280, "shufflenet_v2": 1024}.get(name, PUBLISHED[name][0][0])
    kept = sum(parameter.numel() for parameter in network.student.parameters())
    assert kept == whole - (length * 100 + 100) - dropped


@each_student
def test_a_grafted_student_is_rebuilt_from_its_config_and_weights(name: str) -> None:
    network, again = grafted(name)
    assert torch.equal(again.eval()(images()), network.eval()(images()))


@each_student
def test_a_grafted_student_is_tapped_where_the_student_was_and_at_its_projector(name: str) -> None:
    network, _ = grafted(name)
    taps = find_taps(network, images(), network.taps)
    smaller = PUBLISHED[name][0][1] > 4  # than the student's last: vgg8's map has a side of 4
    before = observed(name).taps.stages[: None if smaller else -1]
    assert taps.stages == (*(f"student.{stage}" for stage in before), "projector")
    assert (taps.final_map, taps.classifier) == ("projector", "classifier")


def test_a_student_that_was_saved_before_idle_modules_were_named_is_still_rebuilt() -> None:
    network, _ = grafted("resnet8x4")
    settings = {key: value for key, value in network.settings.items() if key != "idle"}
    own = {key: value for key, value in config_of("resnet8x4").items() if key not in ("taps", "_target_")}
    student: nn.Module = get_class(config_of("resnet8x4")["_target_"])(**own)
    assert SimKDStudent(student, **settings).state_dict().keys() == network.state_dict().keys()
