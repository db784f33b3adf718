"""Observing networks: the right tensors, in every mode and compiled or not, and nothing left behind."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import relu
from transformers import ResNetConfig, ResNetForImageClassification

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields
from kdlab.networks.observer import Observer, Taps, find_taps

ALL = Fields(embedding=True, stages="all", preactivations="all", classifier=True, normalisations=True, final_map=True)


class Block(nn.Module):
    """A residual block whose rectifiers work in place."""

    def __init__(self, source: int, target: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(source, target, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(target)
        self.conv2 = nn.Conv2d(target, target, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(target)
        self.shortcut = nn.Conv2d(source, target, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        branch += self.shortcut(features)
        return self.relu(branch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = Block(1, 4, 1)
        self.layer2 = Block(4, 6, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(images))).flatten(1))


def by_hand(network: Net, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Stages, preactivations and embedding, by functions that write over nothing."""
    stages, before = [], []
    for block in (network.layer1, network.layer2):
        branch = block.bn2(block.conv2(relu(block.bn1(block.conv1(images)))))
        before.append(branch + block.shortcut(images))
        stages.append(images := relu(before[-1]))
    return stages, before, images.mean((2, 3))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 1, 8, 8)


@pytest.fixture
def network() -> Net:
    return Net().eval()


@pytest.fixture
def taps(network: Net, images: Tensor) -> Taps:
    return find_taps(network, images)


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def test_what_is_observed_is_what_the_network_computed(network: Net, taps: Taps, images: Tensor) -> None:
    stages, before, embedding = by_hand(network, images)
    with Observer(network, taps, ALL) as observer:
        knowledge = observer({"input": images})
    for position in range(2):
        torch.testing.assert_close(knowledge.stage(position), stages[position])
        torch.testing.assert_close(knowledge.preactivation(position), before[position])
        assert knowledge.preactivation(position).min() < 0  # the rectifier in place did not write over it
    torch.testing.assert_close(knowledge.vector(), embedding)
    torch.testing.assert_close(knowledge.before_pooling(), stages[-1])
    torch.testing.assert_close(knowledge.logits, embedding @ network.fc.weight.T + network.fc.bias)
    assert knowledge.rows.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fields", "stages", "before", "embedding"),
    [
        (Fields(), (False, False), (False, False), False),
        (Fields(stages=(-1,)), (False, True), (False, False), False),
        (Fields(stages=(0,), preactivations=(1,)), (True, False), (False, True), False),
        (Fields(embedding=True), (False, False), (False, False), True),
    ],
)
def test_positions_are_fixed_and_nothing_is_observed_that_nobody_asked_for(
    fields: Fields,
    stages: tuple[bool, ...],
    before: tuple[bool, ...],
    embedding: bool,
    network: Net,
    taps: Taps,
    images: Tensor,
) -> None:
    with Observer(network, taps, fields) as observer:
        assert hooks(network) == sum((*stages, *before, embedding))
        knowledge = observer({"input": images})
    assert tuple(stage is not None for stage in knowledge.stages) == stages
    assert tuple(stage is not None for stage in knowledge.preactivations) == before
    assert (knowledge.embedding is not None) is embedding


def test_the_caller_decides_on_mode_and_gradients(network: Net, taps: Taps, images: Tensor) -> None:
    with Observer(network, taps, ALL) as observer:
        observer({"input": images})
        assert network.layer1.bn1.num_batches_tracked == 0
        network.train()
        knowledge = observer({"input": images})
        assert network.layer1.bn1.num_batches_tracked == 1
        knowledge.preactivation(0).sum().backward()
        assert network.layer1.conv1.weight.grad is not None
        assert network.layer2.conv1.weight.grad is None
        with torch.no_grad():
            assert not observer({"input": images}).stage(0).requires_grad


def test_an_observer_is_empty_after_each_call(network: Net, taps: Taps, images: Tensor) -> None:
    with Observer(network, taps, ALL) as observer:
        knowledge = observer({"input": images})
        seen = [weakref.ref(tensor) for tensor in (*knowledge.stages, *knowledge.preactivations, knowledge.embedding)]
        del knowledge
        gc.collect()
        assert [ref() for ref in seen] == [None] * 5


def test_hooks_do_nothing_outside_a_call(network: Net, taps: Taps, images: Tensor) -> None:
    """Validation runs the network itself."""
    kept = []
    with Observer(network, taps, ALL) as observer:
        network.layer1.register_forward_hook(lambda module, given, returned: kept.append(weakref.ref(returned)))
        network(images)
        gc.collect()
        assert kept[0]() is None
        observer({"input": images})  # and still does what it is for


def test_hooks_are_gone_afterwards_even_where_the_network_failed(network: Net, taps: Taps, images: Tensor) -> None:
    observer = Observer(network, taps, ALL)
    with pytest.raises(RuntimeError, match="channels"), observer:
        observer({"input": images.expand(5, 2, 8, 8)})
    assert hooks(network) == 0
    with observer:
        assert hooks(network) == 5
        assert observer({"input": images}).stage(1).shape == (5, 6, 4, 4)
    assert hooks(network) == 0


def test_an_example_is_a_dry_run_with_the_modules_that_were_asked_for(network: Net, taps: Taps, images: Tensor) -> None:
    stages, _, _ = by_hand(network, images)
    network.train()
    network.layer2.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    with Observer(network, taps, ALL) as observer:
        example = observer.example({"input": images})
    torch.testing.assert_close(example.knowledge.stage(1), stages[1])
    assert not example.knowledge.logits.requires_grad
    assert example.classifier is network.fc
    assert example.normalisations == (network.layer1.bn2, network.layer2.bn2)
    assert example.layers == ("layer1", "layer2")
    assert example.final_layer == "layer2"
    assert example.input is images
    assert example.name == "Net"
    assert (network.training, network.layer1.bn1.training, network.layer2.bn1.training) == (True, True, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_example_holds_no_module_that_nobody_asked_for(network: Net, taps: Taps, images: Tensor) -> None:
    with Observer(network, taps, Fields(embedding=True)) as observer:
        example = observer.example({"input": images})
    assert example.classifier is None
    assert example.normalisations == ()


class Again(nn.Module):
    """Applies one layer three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(self.layer(self.layer(input)))


def test_of_a_module_that_runs_several_times_the_last_run_counts() -> None:
    network, input = Again(), torch.randn(2, 3)
    with Observer(network, find_taps(network, input), Fields(embedding=True)) as observer:
        knowledge = observer({"input": input})
    torch.testing.assert_close(knowledge.vector(), network.layer(network.layer(input)))
    torch.testing.assert_close(network.layer(knowledge.vector()), knowledge.logits)


def test_a_transformers_network_is_observed_as_it_comes() -> None:
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    network = ResNetForImageClassification(config).eval()
    pixels = torch.randn(2, 1, 32, 32)
    taps = find_taps(network, pixels, {"stages": ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]})
    with Observer(network, taps, Fields(embedding=True, stages="all")) as observer:
        knowledge = observer({"input": pixels})
    expected = network(pixels, output_hidden_states=True)
    torch.testing.assert_close(knowledge.logits, expected.logits)
    torch.testing.assert_close(knowledge.stage(0), expected.hidden_states[1])
    torch.testing.assert_close(knowledge.stage(1), expected.hidden_states[2])
    torch.testing.assert_close(knowledge.vector(), expected.hidden_states[2].mean((2, 3)))


def test_autocast_is_the_callers_too(network: Net, taps: Taps, images: Tensor) -> None:
    with Observer(network, taps, ALL) as observer, torch.autocast("cpu", torch.bfloat16):
        knowledge = observer({"input": images})
    assert knowledge.logits.dtype == torch.bfloat16
    assert knowledge.preactivation(0).min() < 0


def test_rows_first_made_in_inference_mode_serve_training_too(network: Net, taps: Taps) -> None:
    images = torch.randn(11, 1, 8, 8)
    with Observer(network, taps, Fields()) as observer:
        with torch.inference_mode():
            observer({"input": images})
        knowledge = observer({"input": images})
        torch.ones(11, requires_grad=True)[knowledge.rows].sum().backward()
        assert knowledge.rows is observer({"input": images}).rows  # made once, not in every step


class Step(nn.Module):
    """Stands for what wraps the network in training: its forward asks the observer."""

    def __init__(self, network: nn.Module, observer: Observer) -> None:
        super().__init__()
        self.network = network
        self.observer = observer

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        knowledge = self.observer({"input": images})
        return knowledge.logits, knowledge.stage(0)


def test_a_network_inside_distributed_data_parallel_is_observed(
    network: Net, taps: Taps, images: Tensor, tmp_path: Path
) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with Observer(network, taps, Fields(stages=(0,))) as observer:
            logits, stage = nn.parallel.DistributedDataParallel(Step(network.train(), observer))(images)
            (logits.sum() + stage.sum()).backward()
    finally:
        distributed.destroy_process_group()
    assert stage.shape == (5, 4, 8, 8)
    assert network.layer1.conv1.weight.grad is not None


def graphs(network: nn.Module, **options: Any) -> list[torch.fx.GraphModule]:
    """Compiles in place, and collects the graphs that come of it."""
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        found.append(graph)
        return graph

    network.compile(backend=backend, **options)
    return found


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_compiled_network_says_the_same_in_one_graph(mode: str, network: Net, taps: Taps, images: Tensor) -> None:
    network.train(mode == "train")
    keys = list(network.state_dict())
    stages, before, embedding = by_hand(network, images)
    with Observer(network, taps, ALL) as observer:
        made = graphs(network, fullgraph=True)
        for _ in range(2):
            knowledge = observer({"input": images})
            for position in range(2):
                torch.testing.assert_close(knowledge.stage(position), stages[position])
                torch.testing.assert_close(knowledge.preactivation(position), before[position])
            torch.testing.assert_close(knowledge.vector(), embedding)
        assert len(made) == 1
        network.eval()
        batch = {"input": images}
        torch.testing.assert_close(observer.example(batch).knowledge.stages, observer(batch).stages)
    assert list(network.state_dict()) == keys


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # in torch, as inductor is imported
def test_inductor_says_the_same(network: Net, taps: Taps, images: Tensor) -> None:
    stages, before, _ = by_hand(network, images)
    with Observer(network, taps, ALL) as observer:
        network.compile()
        knowledge = observer({"input": images})
    torch.testing.assert_close(knowledge.stages, tuple(stages))
    torch.testing.assert_close(knowledge.preactivations, tuple(before))


@pytest.mark.usefixtures("_fresh_compiler")
def test_taps_are_found_in_a_network_that_is_compiled_already(network: Net, taps: Taps, images: Tensor) -> None:
    made = graphs(network)
    assert find_taps(network, images) == taps
    assert not made


@pytest.mark.usefixtures("_fresh_compiler")
def test_hooks_set_after_compiling_are_an_error_that_says_so(network: Net, taps: Taps, images: Tensor) -> None:
    graphs(network)
    network(images)
    with (
        Observer(network, taps, Fields(stages="all")) as observer,
        pytest.raises(RuntimeError, match=r"layer1, layer2 did not fire.*enter the Observer first, then"),
    ):
        observer({"input": images})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (Fields(stages=(2,)), r"stages \(2,\) requested from Net, which offers stages 0 \(layer1\), 1 \(layer2\)"),
        (Fields(preactivations=(-3,)), r"preactivations \(-3,\) requested from Net"),
        (Fields(preactivations=(0,)), r"preactivations \(0,\) requested.*preactivations 1 \(layer2\.bn2\)"),
        (Fields(normalisations=True), r"normalisations requested.*normalisations none"),
        (Fields(embedding=True), r"classifier requested.*classifier none"),
        (Fields(classifier=True), r"classifier requested.*classifier none"),
        (Fields(final_map=True), r"a final map requested.*final map none"),
    ],
)
def test_what_the_taps_do_not_offer_is_refused_with_what_they_do(fields: Fields, message: str, network: Net) -> None:
    taps = Taps(("layer1", "layer2"), (None, "layer2.bn2"), (None, None))
    with pytest.raises(UsageError, match=message):
        Observer(network, taps, fields)


def test_all_preactivations_are_those_that_there_are(network: Net, images: Tensor) -> None:
    taps = Taps(("layer1", "layer2"), (None, "layer2.bn2"), (None, None))
    with Observer(network, taps, Fields(preactivations="all")) as observer:
        before = observer({"input": images}).preactivations
    assert before[0] is None
    assert before[1] is not None


def test_all_stages_of_a_network_without_any_are_refused(network: Net) -> None:
    with pytest.raises(UsageError, match="stages all requested from Net, which offers stages none"):
        Observer(network, Taps(classifier="fc"), Fields(stages="all"))


def test_a_tap_that_names_no_module_is_refused_with_the_nearest(network: Net) -> None:
    with pytest.raises(UsageError, match=r"'layer3'.*did you mean.*layer"):
        Observer(network, Taps(("layer3",)), Fields(stages="all"))


def test_a_tap_that_never_fires_is_an_error_with_those_that_do(network: Net, images: Tensor) -> None:
    network.layer3 = Block(6, 8, 2)
    with (
        Observer(network, Taps(("layer1", "layer3")), Fields(stages="all")) as observer,
        pytest.raises(RuntimeError, match=r"'layer3' never fires: Net runs without it; did you mean.*layer2"),
    ):
        observer({"input": images})


def test_an_observer_without_its_hooks_says_how_to_set_them(network: Net, taps: Taps, images: Tensor) -> None:
    observer = Observer(network, taps, Fields(stages="all"))
    with pytest.raises(RuntimeError, match=r"with Observer\(\.\.\.\) as observer"):
        observer({"input": images})
    assert Observer(network, taps, Fields())({"input": images}).logits.shape == (5, 3)  # has nothing to hook
