"""The networks of the distillation literature: as published, at any width, on images of any size."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.models.layers import ChannelShuffle, scaled
from kdlab.models.shufflenet_v2 import ShuffleBlock

CONF = Path(__file__).parents[2] / "conf"

# What the layers of RepDistiller's `models/` add up to at 100 classes. They agree with the digits printed in
# the literature: resnet8x4 1.234 M, WRN-40-2 2.255 M, vgg13 9.462 M, MobileNetV2 0.813 M, ...
PUBLISHED = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenet_half": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
    "resnet50": 23_705_252,
}
FAMILIES = ("resnet8", "resnet50", "wrn_16_1", "vgg8", "mobilenet", "mobilenet_half", "shufflenet_v1", "shufflenet_v2")
ALIASES = {"resnet": "resnet20", "wrn": "wrn_16_2", "vgg": "vgg8", "shufflenet": "shufflenet_v2"}

every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def network(name: str, *, classes: int = 10, channels: int = 1, device: str = "cpu", **settings: Any) -> nn.Module:
    """The network of `conf/model/NAME.yaml`, without the keys that are the run's."""
    model = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    data = {"classes": classes, "channels": channels}
    config = OmegaConf.to_container(OmegaConf.create({"model": model, "data": data}), resolve=True)["model"]
    del config["taps"]
    with torch.device(device):
        return get_class(config.pop("_target_"))(**{**config, **settings})


def small(name: str) -> nn.Module:
    """A quarter of the network's width, where that is not small already."""
    return network(name) if name == "mobilenet" else network(name, width=0.25)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_network_has_as_many_parameters_as_published(name: str, parameters: int) -> None:
    model = network(name, classes=100, channels=3, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 100)


def test_the_mobilenet_for_digits_stays_small() -> None:
    assert sum(parameter.numel() for parameter in network("mobilenet").parameters()) == pytest.approx(6000, rel=0.05)


@every_family
def test_images_of_eight_pixels_and_one_channel_train_every_parameter(name: str) -> None:
    model = small(name)
    logits = model(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@every_family
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (28, 28), (64, 64)])
def test_images_may_have_any_size(name: str, size: tuple[int, int]) -> None:
    model = network(name, device="meta")
    assert model(torch.empty(2, 1, *size, device="meta")).shape == (2, 10)


@every_family
def test_every_width_makes_a_network_and_a_greater_one_a_larger_network(name: str) -> None:
    counts = []
    for width in (0.01, 0.1, 0.37, 1, 2.5, 4.0):
        model = network(name, width=width, device="meta")
        assert model(torch.empty(2, 1, 8, 8, device="meta")).shape == (2, 10)
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("channels", "width", "multiple", "expected"),
    [(64, 0.5, 1, 32), (16, 0.1, 1, 2), (16, 0.01, 1, 1), (116, 0.5, 2, 58), (24, 0.1, 3, 3), (240, 1.0, 3, 240)],
)
def test_channels_scale_to_the_nearest_multiple(channels: int, width: float, multiple: int, expected: int) -> None:
    assert scaled(channels, width, multiple) == expected


@every_family
@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf")])
def test_a_width_that_is_no_positive_number_is_refused(name: str, width: float) -> None:
    with pytest.raises(UsageError, match=f"width={width}: expected a number above 0"):
        network(name, width=width, device="meta")


@pytest.mark.parametrize(("name", "expected"), [("resnet", "6n \\+ 2"), ("wrn", "6n \\+ 4"), ("vgg", "8, 11, 13")])
def test_a_depth_that_no_network_has_is_refused(name: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"depth=21: expected .*{expected}"):
        network(ALIASES[name], depth=21)


@every_family
def test_a_seed_decides_the_weights(name: str) -> None:
    first, second, third = (_seeded(name, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any(torch.equal(first[key], third[key]) for key in first if first[key].ndim == 4)


def _seeded(name: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return small(name).state_dict()


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenet_half", "resnet50"])
def test_convolutions_begin_as_he_et_al_propose(name: str) -> None:
    for module in network(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            outputs = module.weight.shape[0] * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.05)
            assert module.bias is None or not module.bias.any()


@every_family
def test_double_precision_agrees_with_single(name: str) -> None:
    model, images = small(name).eval(), torch.randn(2, 1, 8, 8)
    single = model(images)
    double = model.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@every_family
def test_the_memory_format_does_not_change_the_logits(name: str) -> None:
    model, images = small(name).eval(), torch.randn(2, 1, 8, 8)
    expected = model(images)
    other = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)


@every_family
def test_a_copy_has_the_same_keys_and_its_own_weights(name: str) -> None:
    model = small(name)
    copied = deepcopy(model)
    assert list(copied.state_dict()) == list(model.state_dict())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8x4", {"layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8)}),
        ("wrn_16_2", {"block1": (32, 32), "block2": (64, 16), "block3": (128, 8), "relu": (128, 8)}),
        ("vgg8", {"block1": (64, 32), "block2": (128, 16), "block3": (256, 8), "block4": (512, 4), "block5": (512, 4)}),
        ("mobilenet_half", {"stage2": (12, 16), "stage3": (16, 8), "stage5": (48, 4), "head": (1280, 2)}),
        ("shufflenet_v1", {"stem": (24, 32), "layer1": (240, 16), "layer2": (480, 8), "layer3": (960, 4)}),
        ("shufflenet_v2", {"layer1": (116, 16), "layer2": (232, 8), "layer3": (464, 4), "head": (1024, 4)}),
        ("resnet50", {"layer1": (256, 32), "layer2": (512, 16), "layer3": (1024, 8), "layer4": (2048, 4)}),
    ],
)
def test_stages_have_the_published_channels_and_sides(name: str, expected: dict[str, tuple[int, int]]) -> None:
    model = network(name, channels=3, device="meta")
    assert _maps(model, expected, side=32) == {key: (2, d, side, side) for key, (d, side) in expected.items()}


@pytest.mark.parametrize(("side", "last"), [(4, 1), (8, 1), (32, 4), (64, 4), (128, 8)])
def test_vgg_pools_only_while_there_is_something_to_pool(side: int, last: int) -> None:
    model = network("vgg8", channels=3, device="meta")
    assert _maps(model, ["block5"], side) == {"block5": (2, 512, last, last)}


def _maps(model: nn.Module, names: Any, side: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out.shape}))
    model(torch.empty(2, 3, side, side, device="meta"))
    return shapes


@every_family
def test_every_activation_is_a_module_of_its_own_that_runs_once(name: str) -> None:
    model = network(name, device="meta")
    calls = _order(model, nn.ReLU)
    assert len(calls) == len(set(calls)) == sum(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize(("name", "last"), [("resnet8x4", "layer2.0.bn2"), ("resnet50", "layer2.0.bn3")])
def test_the_branch_is_normalised_after_the_shortcut(name: str, last: str) -> None:
    calls = _order(network(name, device="meta"), nn.BatchNorm2d)
    assert [call for call in calls if call.startswith("layer2.0.")][-1] == last


def _order(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    calls: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(torch.empty(2, 1, 32, 32, device="meta"))
    return calls


def test_shuffling_agrees_with_torch() -> None:
    features = torch.randn(2, 12, 3, 5)
    assert torch.equal(ChannelShuffle(3)(features), nn.functional.channel_shuffle(features, 3))


def test_a_shufflenet_block_activates_its_branch_as_the_paper_draws_it() -> None:
    block, features = ShuffleBlock(8).eval(), torch.rand(2, 8, 4, 4)
    kept, worked = features[:, :4], features[:, 4:]
    drawn = torch.cat([kept, block.branch(worked).relu()], dim=1)
    assert torch.equal(block(features), nn.functional.channel_shuffle(drawn, 2))


@pytest.mark.parametrize(("alias", "meant"), ALIASES.items())
def test_a_family_name_is_an_option_for_student_and_teacher(alias: str, meant: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+model={alias}", f"+model@teacher.model={alias}"])
    assert config.model == config.teacher.model == OmegaConf.load(CONF / "model" / f"{meant}.yaml")


def test_networks_of_transformers_run_without_a_warning() -> None:
    transformers = pytest.importorskip("transformers")
    convolutional = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    attentive = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=10,
    )
    for model in (
        transformers.ResNetForImageClassification(convolutional),
        transformers.ViTForImageClassification(attentive),
    ):
        logits = model(torch.randn(2, 1, 8, 8)).logits
        assert logits.shape == (2, 10)
        logits.sum().backward()
