"""Where networks are observed: what one dry run finds in them, and that it leaves no mark."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, linear, normalize, relu
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields
from kdlab.models.mobilenet import MobileNetV2
from kdlab.models.resnet import ResNet
from kdlab.models.resnet50 import BottleneckResNet
from kdlab.models.shufflenet_v1 import ShuffleNetV1
from kdlab.models.shufflenet_v2 import ShuffleNetV2
from kdlab.models.vgg import VGG
from kdlab.models.wrn import WideResNet
from kdlab.networks.observer import Observer
from kdlab.networks.taps import Taps, find_taps

MOBILE = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]

# Of each network: its stages, their channels as printed in its paper, their sides on images of 32 pixels and of
# 8; their preactivations, and the normalisations before these.
FAMILIES: dict[str, tuple[type[nn.Module], dict[str, Any], dict[str, list[Any]]]] = {
    "resnet8x4": (
        ResNet,
        {"depth": 8, "filters": [32, 64, 128, 256]},
        {
            "stages": ["layer1", "layer2", "layer3"],
            "channels": [64, 128, 256],
            "at 32": [32, 16, 8],
            "at 8": [8, 4, 2],
            "before": ["layer1.0.relu2:input", "layer2.0.relu2:input", "layer3.0.relu2:input"],
            "norms": ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"],
        },
    ),
    "wrn_16_2": (
        WideResNet,
        {"depth": 16, "widen": 2},
        {
            "stages": ["block1", "block2", "relu"],
            "channels": [32, 64, 128],
            "at 32": [32, 16, 8],
            "at 8": [8, 4, 2],
            # The authors of ofd tap the normalisations that open the next stage, and the last.
            "before": ["block2.0.norm1", "block3.0.norm1", "norm"],
            "norms": ["block2.0.norm1", "block3.0.norm1", "norm"],
        },
    ),
    "vgg8": (
        VGG,
        {"depth": 8},
        {
            "stages": ["block1", "block2", "block3", "block5"],
            "channels": [64, 128, 256, 512],
            "at 32": [32, 16, 8, 4],
            "at 8": [8, 4, 2, 1],
            "before": ["block1.1", "block2.1", "block3.1", "block5.1"],
            "norms": ["block1.1", "block2.1", "block3.1", "block5.1"],
        },
    ),
    "mobilenet for digits": (
        MobileNetV2,
        {"stride": 1, "stages": [[1, 16, 1, 1], [6, 24, 1, 2], [6, 32, 1, 2]], "last": 1280},
        {
            "stages": ["stage1", "stage2", "head"],
            "channels": [16, 24, 1280],
            "at 32": [32, 16, 8],
            "at 8": [8, 4, 2],
            # Bottlenecks are linear: a map that went through no activation is its own preactivation.
            "before": ["stage1", "stage2", "head.1"],
            "norms": ["stage1.0.branch.7", "stage2.0.branch.7", "head.1"],
        },
    ),
    "shufflenet_v1": (
        ShuffleNetV1,
        {"groups": 3, "filters": [240, 480, 960], "blocks": [4, 8, 4]},
        {
            "stages": ["stem", "layer1", "layer2", "layer3"],
            "channels": [24, 240, 480, 960],
            "at 32": [32, 16, 8, 4],
            "at 8": [8, 4, 2, 1],
            "before": ["stem.1", "layer1.3.relu:input", "layer2.7.relu:input", "layer3.3.relu:input"],
            "norms": ["stem.1", "layer1.3.branch.8", "layer2.7.branch.8", "layer3.3.branch.8"],
        },
    ),
    "shufflenet_v2": (
        ShuffleNetV2,
        {"filters": [116, 232, 464], "blocks": [4, 8, 4], "last": 1024},
        {
            "stages": ["stem", "layer1", "layer2", "head"],
            "channels": [24, 116, 232, 1024],
            "at 32": [32, 16, 8, 4],
            "at 8": [8, 4, 2, 1],
            "before": ["stem.1", "layer1.3.relu:input", "layer2.7.relu:input", "head.1"],
            # Inside the blocks every normalisation has half of the channels, or none that are passed on.
            "norms": ["stem.1", None, None, "head.1"],
        },
    ),
    "resnet50": (
        BottleneckResNet,
        {"blocks": [3, 4, 6, 3]},
        {
            "stages": ["layer1", "layer2", "layer3", "layer4"],
            "channels": [256, 512, 1024, 2048],
            "at 32": [32, 16, 8, 4],
            "at 8": [8, 4, 2, 1],
            "before": [f"layer{stage}.{last}.relu3:input" for stage, last in ((1, 2), (2, 3), (3, 5), (4, 2))],
            "norms": [f"layer{stage}.{last}.bn3" for stage, last in ((1, 2), (2, 3), (3, 5), (4, 2))],
        },
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def shapes(network: nn.Module, taps: Taps, input: Tensor) -> list[tuple[int, ...]]:
    with Observer(network, taps, Fields(stages="all")) as observer:
        stages = observer.example({"input": input}).knowledge.stages
    return [tuple(stage.shape[1:]) for stage in stages if stage is not None]


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8)])
@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_the_literature_are_tapped_where_the_literature_taps_them(
    family: str, channels: int, side: int
) -> None:
    kind, settings, expected = FAMILIES[family]
    network = kind(classes=10, channels=channels, width=1.0, **settings)
    input = torch.randn(2, channels, side, side)
    taps = find_taps(network, input)
    assert list(taps.stages) == expected["stages"]
    sides = expected[f"at {side}"]
    assert shapes(network, taps, input) == [(d, s, s) for d, s in zip(expected["channels"], sides, strict=True)]
    assert list(taps.preactivations) == expected["before"]
    assert list(taps.normalisations) == expected["norms"]
    assert taps.classifier == "fc"


def test_a_mobilenet_whose_maps_are_down_to_one_position_still_ends_on_its_last_map() -> None:
    """Strides 2, 2, 2, 2 take 8 pixels to 4, 2, 1, 1: the last two resolutions are one."""
    network = MobileNetV2(classes=10, channels=1, width=0.5, stride=2, stages=MOBILE, last=1280)
    input = torch.randn(2, 1, 8, 8)
    taps = find_taps(network, input)
    assert taps.stages == ("stage2", "stage3", "head")
    assert shapes(network, taps, input) == [(12, 4, 4), (16, 2, 2), (1280, 1, 1)]


def test_a_mobilenet_on_larger_images_has_a_stage_before_each_stride() -> None:
    network = MobileNetV2(classes=10, channels=3, width=0.5, stride=2, stages=MOBILE, last=1280)
    input = torch.randn(2, 3, 32, 32)
    taps = find_taps(network, input)
    assert taps.stages == ("stage2", "stage3", "stage5", "head")
    assert shapes(network, taps, input) == [(12, 16, 16), (16, 8, 8), (48, 4, 4), (1280, 2, 2)]


@pytest.mark.parametrize("side", [32, 48])
def test_the_stages_of_a_transformers_resnet_are_those_of_its_encoder(side: int) -> None:
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8, 16, 32], depths=[1, 2, 1, 2], layer_type="basic", num_labels=5
    )
    network = ResNetForImageClassification(config)
    input = torch.randn(2, 3, side, side)
    taps = find_taps(network, input)
    assert taps.stages == tuple(f"resnet.encoder.stages.{stage}" for stage in range(4))
    # The stem divides by four, and every stage but the first by two, rounding up.
    sides = [side // 4, side // 8, -(-side // 16), -(-side // 32)]
    assert shapes(network, taps, input) == [(d, s, s) for d, s in zip((4, 8, 16, 32), sides, strict=True)]
    assert taps.preactivations[1] == "resnet.encoder.stages.1.layers.1.activation:input"
    assert taps.normalisations[1] == "resnet.encoder.stages.1.layers.1.layer.1.normalization"
    assert taps.classifier == "classifier.1"


@pytest.mark.parametrize(("depth", "stages"), [(2, (0, 1)), (4, (0, 1, 2, 3)), (8, (1, 3, 5, 7))])
def test_the_stages_of_a_transformer_are_evenly_spaced_blocks(depth: int, stages: tuple[int, ...]) -> None:
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=5,
    )
    network = ViTForImageClassification(config)
    input = torch.randn(2, 1, 8, 8)
    taps = find_taps(network, input)
    assert [int(tap.rpartition(".")[2]) for tap in taps.stages] == list(stages)
    assert shapes(network, taps, input) == [(17, 8)] * len(stages)  # 4 · 4 patches and the class token
    assert taps.preactivations == taps.normalisations == (None,) * len(stages)
    assert taps.classifier == "classifier"


class TupleBlock(nn.Module):
    """A block as transformers' decoders have them: a tuple comes out, and tokens by keyword go in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(6, 6)

    def forward(self, *, tokens: Tensor) -> tuple[Tensor, None]:
        return tokens + self.mix(self.norm(tokens)), None


class TupleTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.blocks = nn.ModuleList(TupleBlock() for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(words)
        for block in self.blocks:
            tokens, _ = block(tokens=tokens)
        return {"logits": self.head(tokens[:, 0])}


def test_blocks_that_return_tuples_and_take_keywords_are_stages() -> None:
    network = TupleTransformer()
    words = torch.randint(20, (2, 7))
    taps = find_taps(network, words)
    assert taps.stages == ("blocks.0", "blocks.1", "blocks.2")
    assert shapes(network, taps, words) == [(7, 6)] * 3
    assert taps.classifier == "head"


def test_blocks_are_found_inside_what_wraps_them() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 3)
    network = nn.Sequential(nn.Sequential(nn.Embedding(20, 6)), encoder, nn.Flatten(), nn.Linear(42, 4))
    assert find_taps(network, torch.randint(20, (2, 7))).stages == ("1.layers.0", "1.layers.1", "1.layers.2")


def conv(source: int, target: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, target, 3, stride, padding=1), nn.BatchNorm2d(target), nn.ReLU())


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def test_the_pool_of_an_imagenet_stem_ends_no_stage() -> None:
    stem = [nn.Conv2d(3, 4, 7, 2, padding=3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    network = nn.Sequential(*stem, conv(4, 4), conv(4, 8, 2), *head(8))
    assert find_taps(network, torch.randn(2, 3, 32, 32)).stages == ("4", "5")


def test_a_network_of_strided_convolutions_has_a_stage_behind_each() -> None:
    network = nn.Sequential(conv(1, 4, 2), conv(4, 8, 2), conv(8, 16, 2), *head(16))
    input = torch.randn(2, 1, 8, 8)
    taps = find_taps(network, input)
    assert taps.stages == ("0", "1", "2")
    assert shapes(network, taps, input) == [(4, 4, 4), (8, 2, 2), (16, 1, 1)]


def test_a_body_in_one_module_is_looked_into() -> None:
    network = nn.Sequential(nn.Sequential(conv(1, 4), conv(4, 8, 2)), *head(8))
    assert find_taps(network, torch.randn(2, 1, 8, 8)).stages == ("0.0", "0.1")


def test_flat_inputs_that_become_images_are_measured_as_images() -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), conv(1, 4), conv(4, 8, 2), *head(8))
    assert find_taps(network, torch.randn(2, 64)).stages == ("1", "2")


class Squeeze(nn.Module):
    """Squeeze-and-excitation: two convolutions of a single position, inside a module that keeps the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        return features * self.gate(features)


@pytest.mark.parametrize("side", [2, 4, 16])
def test_squeeze_and_excitation_is_no_resolution(side: int) -> None:
    network = nn.Sequential(conv(3, 4), Squeeze(4), conv(4, 8, 2), Squeeze(8), *head(8))
    assert find_taps(network, torch.randn(2, 3, side, side)).stages == ("1", "3")


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d(8)])
def test_convolutions_behind_the_last_pool_belong_to_the_head(pool: nn.Module) -> None:
    network = nn.Sequential(conv(3, 4), conv(4, 8, 2), pool, conv(8, 16), nn.Flatten(), nn.Linear(16, 3))
    assert find_taps(network, torch.randn(2, 3, 16, 16)).stages == ("0", "1")


def test_modules_that_pass_a_map_on_in_eval_mode_do_not_give_it_their_name() -> None:
    """In training their output is another map."""
    network = nn.Sequential(conv(1, 4), nn.Dropout(), conv(4, 8, 2), nn.Dropout(), *head(8))
    assert find_taps(network, torch.randn(2, 1, 8, 8)).stages == ("0", "2")


class Functional(nn.Module):
    """A residual network as many repositories have it: what ends a stage is a function, not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 8, 3, 2, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images))
        features = relu(features + self.bn2(self.conv2(self.relu(features))))
        return self.fc(adaptive_avg_pool2d(relu(self.down(features)), 1).flatten(1))


def test_a_map_made_by_a_function_is_seen_where_the_next_module_reads_it_and_has_no_preactivation() -> None:
    network = Functional()
    taps = find_taps(network, torch.randn(2, 3, 8, 8))
    assert taps.stages == ("down:input", "down")
    # The rectifier inside the branch is another layer's; the last convolution is read before any rectifier.
    assert taps.preactivations == (None, "down")


class OneRectifier(nn.Module):
    """Uses one module twice; a tap on it sees the second time only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, 2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.conv2(self.relu(self.conv1(images))))
        return self.fc(self.pool(features).flatten(1))


def test_a_module_that_runs_twice_is_tapped_for_its_last_run_alone() -> None:
    network = OneRectifier()
    taps = find_taps(network, torch.randn(2, 1, 8, 8))
    assert taps.stages == ("conv2:input", "relu")
    assert taps.preactivations == ("conv1", "conv2")
    assert taps.overwritten == {"conv1", "conv2"}


def test_a_network_of_linear_layers_offers_its_embedding_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    taps = find_taps(network, torch.randn(2, 1, 8, 8))
    assert taps == Taps(classifier="3")
    assert taps.offers == Fields(embedding=True, classifier=True)


def test_a_convolutional_network_offers_what_its_taps_name() -> None:
    everything = find_taps(nn.Sequential(conv(1, 4), conv(4, 8, 2), *head(8)), torch.randn(2, 1, 8, 8))
    assert everything.offers == Fields(True, "all", "all", True, True, True)
    assert find_taps(Functional(), torch.randn(2, 3, 8, 8)).offers == Fields(True, "all", (1,), True, False, False)


class Cosine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(normalize(input), normalize(self.weight))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        return (self.one(input) + self.other(input)) / 2


class Tempered(nn.Linear):
    """Writes over what its parent returned, which is the very tensor that comes out."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).div_(3)


@pytest.mark.parametrize("last", [Cosine(6, 3, bias=False), TwoHeads(), Tempered(6, 3), nn.Conv1d(6, 3, 1)])
def test_there_is_no_classifier_where_no_linear_layer_gives_the_logits(last: nn.Module) -> None:
    layers = [nn.Linear(4, 6), nn.ReLU(), last]
    if isinstance(last, nn.Conv1d):
        layers = [nn.Linear(4, 6), nn.Unflatten(1, (6, 1)), last, nn.Flatten()]
    assert find_taps(nn.Sequential(*layers), torch.randn(5, 4)).classifier is None


class Projecting(nn.Module):
    """A projection runs after the classifier, and is not returned."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.projection = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        embedding = self.body(input).relu()
        logits = self.fc(embedding)
        self.kept = self.projection(embedding)
        return logits


def test_the_classifier_is_told_by_its_values_not_by_its_place() -> None:
    assert find_taps(Projecting(), torch.randn(5, 4)).classifier == "fc"


def test_declared_taps_are_taken_and_what_they_leave_open_is_found() -> None:
    network = nn.Sequential(conv(1, 4), conv(4, 8, 2), *head(8))
    input = torch.randn(2, 1, 8, 8)
    taps = find_taps(network, input, {"stages": ["1.0:input", "1"], "preactivations": None})
    assert taps == Taps(("1.0:input", "1"), ("0.1", "1.1"), ("0.1", "1.1"), "4", final_map="1")
    taps = find_taps(
        network,
        input,
        {"stages": ["0", "1.0"], "preactivations": [None, "1.0"], "final_map": "2:input", "classifier": "4"},
    )
    assert taps == Taps(("0", "1.0"), (None, "1.0"), (None, None), "4", final_map="2:input")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"stages": ["layr2"]}, r"'layr2'.*did you mean.*layer2"),
        ({"stages": ["layer2:output"]}, r"'layer2:output' is neither MODULE nor MODULE:input of ResNet"),
        ({"stages": [""]}, r"'' is neither"),
        ({"stages": ["layer2"], "preactivations": ["layer2.0.relu3:input"]}, r"did you mean.*layer2\.0\.relu2"),
        ({"stages": ["layer1", "layer2"], "preactivations": [None]}, r"1 entries for 2 stages \(layer1, layer2\)"),
        ({"classifier": "layer3"}, r"layer3 is not a Linear whose output is the logits"),
        ({"classifier": "fd"}, r"'fd'.*fc"),
        ({"final_map": "layer2"}, r"layer2 is not a map whose mean over positions the classifier reads; leave it"),
        ({"final_map": "layer3.0.bn2"}, r"layer3\.0\.bn2 is not a map whose mean"),
        ({"final_map": "layr3"}, r"'layr3'.*did you mean.*layer3"),
        ({"stage": ["layer1"]}, r"taps\.stage is unknown.*stages, preactivations, final_map, classifier and stem"),
    ],
)
def test_a_wrong_declaration_is_refused_with_what_would_be_right(declared: dict[str, Any], message: str) -> None:
    network = ResNet(classes=3, channels=1, width=0.1, depth=8, filters=[16, 16, 32, 64])
    with pytest.raises(UsageError, match=message):
        find_taps(network, torch.randn(2, 1, 8, 8), declared)


FINAL = {
    "resnet8x4": "layer3",
    "wrn_16_2": "relu",
    "vgg8": "block5",
    "mobilenet for digits": "head",
    "shufflenet_v1": "layer3",
    "shufflenet_v2": "head",
    "resnet50": "layer4",
}


@pytest.mark.parametrize("side", [32, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_map_is_what_is_pooled_for_the_classifier(family: str, side: int) -> None:
    kind, settings, expected = FAMILIES[family]
    network = kind(classes=10, channels=3, width=0.25, **settings).eval()
    input, caught = torch.randn(2, 3, side, side), {}
    # Every network here pools in a module called `pool`, at 8 pixels from one position in some.
    network.pool.register_forward_pre_hook(lambda _, given: caught.update(map=given[0]))
    taps = find_taps(network, input)
    assert taps.final_map == FINAL[family] == expected["stages"][-1]
    with Observer(network, taps, Fields(embedding=True, final_map=True)) as observer:
        knowledge = observer({"input": input})
    assert torch.equal(knowledge.before_pooling(), caught["map"])
    torch.testing.assert_close(knowledge.before_pooling().mean((2, 3)), knowledge.vector())


def test_stages_named_elsewhere_leave_the_final_map_where_it_is() -> None:
    network = WideResNet(classes=10, channels=1, width=0.25, depth=10, widen=1)
    taps = find_taps(network, torch.randn(2, 1, 8, 8), {"stages": ["block1", "block2", "block3"]})
    assert (taps.stages[-1], taps.final_map) == ("block3", "relu")


class MeanOfTokens(nn.Module):
    def __init__(self, *after: nn.Module) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Linear(4, 6), nn.ModuleList(TupleBlock() for _ in range(2))
        self.after, self.fc = nn.Sequential(*after), nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        tokens = self.embed(input)
        for block in self.blocks:
            tokens, _ = block(tokens=tokens)
        return self.fc(self.after(tokens.mean(1)))


def test_tokens_that_are_averaged_are_a_final_map_and_a_class_token_leaves_none() -> None:
    images = torch.randn(2, 16, 4)
    assert find_taps(MeanOfTokens(), images).final_map == "blocks.1"
    assert find_taps(TupleTransformer(), torch.randint(20, (2, 7))).final_map is None
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=5,
    )
    assert find_taps(ViTForImageClassification(config), torch.randn(2, 1, 8, 8)).final_map is None


def test_what_works_on_the_embedding_after_pooling_leaves_no_final_map() -> None:
    norm = nn.LayerNorm(6)
    nn.init.normal_(norm.bias)
    assert find_taps(MeanOfTokens(norm), torch.randn(2, 16, 4)).final_map is None
    widened = nn.Sequential(conv(3, 8, 2), nn.AdaptiveAvgPool2d(1), conv(8, 16), nn.Flatten(), nn.Linear(16, 3))
    assert find_taps(widened, torch.randn(2, 3, 16, 16)).final_map is None
    flattened = nn.Sequential(conv(3, 8, 2), nn.Flatten(), nn.Linear(8 * 64, 3))
    assert find_taps(flattened, torch.randn(2, 3, 16, 16)).final_map is None


def test_a_final_map_that_no_module_sees_is_not_taken_from_elsewhere() -> None:
    assert find_taps(Functional(), torch.randn(2, 3, 8, 8)).final_map is None
    # In place: what the convolution returned holds the rectified values later on, and is not the final map.
    assert find_taps(OneRectifier(), torch.randn(2, 1, 8, 8)).final_map == "relu"


def test_a_declared_tap_that_never_fires_is_an_error_that_names_those_that_do() -> None:
    network = Projecting()
    network.extra_projection = nn.Linear(6, 3)
    with pytest.raises(RuntimeError, match=r"'extra_projection' never fires.*projection"):
        find_taps(network, torch.randn(2, 4), {"stages": ["extra_projection"]})


class Noisy(nn.Module):
    """Draws random numbers even in eval mode."""

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.randn_like(features)


def test_a_dry_run_leaves_no_mark() -> None:
    network = nn.Sequential(conv(1, 4), Noisy(), conv(4, 8, 2), *head(8))
    network.train()
    network[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    find_taps(network, torch.ones(2, 1, 8, 8).uniform_(generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network] == [False, True, True, True, True, True]
    assert network[0][1].training is False
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class Broken(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        raise ArithmeticError("broken")


def test_a_dry_run_that_fails_leaves_no_mark_either() -> None:
    network = nn.Sequential(nn.Linear(4, 3), Broken())
    with pytest.raises(ArithmeticError):
        find_taps(network, torch.randn(2, 4))
    assert network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Returning(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, input: Tensor) -> Any:
        return self.make(input)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda input: (input, input), r"returns tuple without logits; expected a tensor \[B, C\]"),
        (lambda input: {"features": input}, r"returns dict without logits"),
        (lambda input: input[:, None], r"logits \(2, 1, 4\); expected \[B, C\]"),
        (lambda input: {"logits": input.sum()}, r"logits \(\); expected \[B, C\]"),
    ],
)
def test_networks_without_one_row_of_logits_per_sample_are_refused(make: Any, message: str) -> None:
    network, batch = Returning(make), {"input": torch.randn(2, 4)}
    with pytest.raises(UsageError, match=message):
        Observer(network, find_taps(network, batch["input"]), Fields())(batch)
