"""The stem: the map that a convolutional network's stages start from."""

import pytest
import torch
from torch import nn

from kdlab.config.compose import compose
from kdlab.core.knowledge import Fields
from kdlab.networks.observer import Observer
from kdlab.networks.taps import find_taps
from kdlab.run.make_network import make_network

# The first map, feat[0], of HobbitLong/RepDistiller, models/*.py at eedab9d, on pictures of 32 pixels, where the
# stages are the maps after it.
STEMS = {
    "resnet8x4": (["layer1", "layer2", "layer3"], (32, 32, 32)),
    "wrn_16_2": (["block1", "block2", "block3"], (16, 32, 32)),
    "vgg8": (["block2", "block3", "block4", "block5"], (64, 32, 32)),
    "vgg13": (["block2", "block3", "block4", "block5"], (64, 32, 32)),
    "resnet50": (["layer1", "layer2", "layer3", "layer4"], (64, 32, 32)),
    "mobilenet_half": (["stage2", "stage3", "stage5", "stage7"], (16, 16, 16)),
    "shufflenet_v1": (["layer1", "layer2", "layer3"], (24, 32, 32)),
    "shufflenet_v2": (["layer1", "layer2", "layer3"], (24, 32, 32)),
}


def stem_of(network: nn.Module, input: torch.Tensor, taps: object = None) -> torch.Tensor | None:
    with Observer(network, find_taps(network, input, taps), Fields(stem=True)) as observer:
        return observer.example({"input": input}).knowledge.stem


@pytest.mark.parametrize("name", STEMS)
def test_the_stem_is_the_first_map_of_published_networks(name):
    stages, shape = STEMS[name]
    network = make_network(compose([f"model={name}", "data=cifar100"]).model)
    assert stem_of(network, torch.randn(2, 3, 32, 32), {"stages": stages}).shape[1:] == shape


def test_the_stem_is_activated_where_its_activation_follows_and_read_before_an_activation_elsewhere():
    for name, negative in (("resnet8x4", False), ("wrn_16_2", True), ("vgg13", False)):
        network = make_network(compose([f"model={name}", "data=cifar100"]).model)
        stem = stem_of(network, torch.randn(2, 3, 32, 32), {"stages": STEMS[name][0]})
        assert bool((stem < 0).any()) == negative


def test_a_network_whose_first_convolution_makes_its_first_stage_has_none():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 3))
    input = torch.randn(2, 1, 8, 8)
    assert find_taps(network, input, {"stages": ["0", "1"]}).stem is None
    assert stem_of(network, input, {"stages": ["0", "1"]}) is None
    assert stem_of(network, input, {"stages": ["1"], "stem": "0"}).shape == (2, 4, 8, 8)


def test_nothing_is_kept_of_the_stem_unless_it_is_asked_for():
    network = make_network(compose(["model=resnet8", "data=cifar100"]).model)
    input = torch.randn(2, 3, 32, 32)
    with Observer(network, find_taps(network, input), Fields(stages="all")) as observer:
        assert observer({"input": input}).stem is None
