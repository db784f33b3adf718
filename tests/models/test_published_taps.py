"""Where the networks of the CIFAR-100 pairs are observed: the layers that the published losses were tuned on.

The tables are written from HobbitLong/RepDistiller (models/), whose losses read `feat[1:-1]` and `feat[-1]`; so do
those of megvii-research/mdistiller, whose WRN, VGG, MobileNetV2 and ShuffleNetV2 return the same maps.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Fields, Knowledge
from kdlab.models.layers import ChannelShuffle
from kdlab.networks.taps import Taps
from support.literature import images, observed

# Channels and sides of `feat[1:-1]` on images of 32 pixels, and the length of `feat[-1]`, by the lines of its models/.
RESNET = ((16, 32), (32, 16), (64, 8)), 64  # resnet.py:184-193, filters :205-230
RESNET_X4 = ((64, 32), (128, 16), (256, 8)), 256  # resnet.py:184-193, filters :233-238
WRN_1 = ((16, 32), (32, 16), (64, 8)), 64  # wrn.py:107-116, block3 raw
WRN_2 = ((32, 32), (64, 16), (128, 8)), 128
VGG = ((128, 16), (256, 8), (512, 4), (512, 4)), 512  # vgg.py:69-91
PUBLISHED = {
    **dict.fromkeys(("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), RESNET),
    **dict.fromkeys(("resnet8x4", "resnet32x4"), RESNET_X4),
    "resnet50": (((256, 32), (512, 16), (1024, 8), (2048, 4)), 2048),  # resnetv2.py:144-154
    **dict.fromkeys(("wrn_16_1", "wrn_40_1"), WRN_1),
    **dict.fromkeys(("wrn_16_2", "wrn_40_2"), WRN_2),
    **dict.fromkeys(("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"), VGG),
    "mobilenet_half": (((12, 16), (16, 8), (48, 4), (160, 2)), 1280),  # mobilenetv2.py:137-154
    "shufflenet_v1": (((240, 16), (480, 8), (960, 4)), 960),  # ShuffleNetv1.py:98-106
    "shufflenet_v2": (((116, 16), (232, 8), (464, 4)), 1024),  # ShuffleNetv2.py:144-153
}

# The normalisations of get_bn_before_relu: resnet.py:169-172, resnetv2.py:117-121, wrn.py:98-100, vgg.py:58-61,
# mobilenetv2.py:120-123. The ShuffleNets raise there.
NORMALISATIONS = {
    "resnet20": ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"],
    "resnet50": ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"],
    "wrn_40_2": ["block2.0.norm1", "block3.0.norm1", "norm"],
    "vgg13": ["block2.4", "block3.4", "block4.4", "block5.4"],
    "mobilenet_half": ["stage2.1.branch.7", "stage3.2.branch.7", "stage5.2.branch.7", "stage7.0.branch.7"],
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def seen(name: str) -> tuple[nn.Module, Taps, Knowledge]:
    network = observed(name)
    network.listen(Fields(embedding=True, stages="all", preactivations="all", final_map=True))
    with torch.no_grad():
        knowledge = network({"input": images()})
    network.close()
    return network.network, network.taps, knowledge


def family(name: str) -> str:
    return "resnet" if name.startswith("resnet") else name.removesuffix("_half").rstrip("0123456789_")


@pytest.mark.parametrize("name", PUBLISHED)
def test_stages_and_embedding_have_the_published_shapes(name: str) -> None:
    stages, length = PUBLISHED[name]
    _, _, knowledge = seen(name)
    shapes = [tuple(stage.shape) for stage in knowledge.stages if stage is not None]
    assert shapes == [(2, channels, side, side) for channels, side in stages]
    assert knowledge.vector().shape == (2, length)


@pytest.mark.parametrize("name", PUBLISHED)
def test_stages_are_raw_in_the_networks_that_return_them_raw(name: str) -> None:
    """WRN adds without a rectifier after it, and MobileNetV2's bottlenecks are linear."""
    lowest = [float(stage.min()) for stage in seen(name)[2].stages if stage is not None]
    if family(name) in ("wrn", "mobilenet"):
        assert max(lowest) < 0
    else:
        assert lowest == [0.0] * len(lowest)


def activated(name: str, place: int, before: Tensor, stage: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors that are equal where `before` is the preactivation that the reference returns for a stage."""
    network = seen(name)[0]
    if family(name) == "wrn":  # wrn.py:120-122: by the normalisation that opens the next block, or the last
        norms = [network.block2[0].norm1, network.block3[0].norm1, network.norm]
        with torch.no_grad():
            return before, norms[place](stage)
    if family(name) == "mobilenet":  # mobilenetv2.py:157-158: the same maps, whatever is asked
        return before, stage
    if name == "shufflenet_v2":  # ShuffleNetv2.py:55: joined, and not shuffled
        return ChannelShuffle(2)(before.relu()), stage
    return before.relu(), stage  # resnet.py:52, resnetv2.py:66, vgg.py:70, ShuffleNetv1.py:47


@pytest.mark.parametrize("name", PUBLISHED)
def test_preactivations_are_those_that_the_reference_returns(name: str) -> None:
    knowledge = seen(name)[2]
    for place, _ in enumerate(knowledge.stages):
        before = knowledge.preactivation(place)
        assert before.min() < 0
        torch.testing.assert_close(*activated(name, place, before, knowledge.stage(place)))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_margins_are_taken_from_the_normalisations_that_the_reference_names(name: str) -> None:
    assert list(seen(name)[1].normalisations) == NORMALISATIONS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_final_map_is_the_one_that_the_classifier_reads_pooled(name: str) -> None:
    network, taps, knowledge = seen(name)
    pooled = knowledge.before_pooling().mean((2, 3))
    torch.testing.assert_close(network.get_submodule(str(taps.classifier))(pooled), knowledge.logits)
    same = torch.equal(pooled, knowledge.stages[-1].mean((2, 3))) if family(name) != "mobilenet" else False
    assert same is (family(name) in ("resnet", "vgg") or name == "shufflenet_v1")


def test_the_mobilenet_for_digits_is_tapped_as_its_published_kin_before_the_last_convolution() -> None:
    network = observed("mobilenet", side=8)
    network.listen(Fields(stages="all", final_map=True))
    knowledge = network({"input": images(side=8)})
    assert [tuple(stage.shape[1:]) for stage in knowledge.stages] == [(3, 8, 8), (5, 4, 4), (6, 2, 2)]
    assert knowledge.before_pooling().shape == (2, 256, 2, 2)


@pytest.mark.parametrize("depth", [(a, b) for a, b in pairwise((8, 11, 13, 16, 19))])
def test_all_members_of_a_family_share_their_taps(depth: tuple[int, int]) -> None:
    one, other = (seen(f"vgg{each}")[1].stages for each in depth)
    assert one == other == ("block2", "block3", "block4", "block5")
