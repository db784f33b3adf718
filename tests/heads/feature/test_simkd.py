import copy
import io
import json
import pickle
from math import prod

import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Knowledge
from kdlab.heads.feature.simkd import SimKD, SimKDStudent, simkd_loss
from support.feature_examples import LESSON, PROGRESS, fill, knows, wave

CONTEXT = Context(classes=5, samples=10)


class Student(nn.Module):
    """A convolution, a pool and a classifier: [B, 3, 16, 16] to a map [B, 4, 8, 8] to [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.body(image)).flatten(1))
        return logits


class Echo(nn.Module):
    """A student whose last map is its input, and which has nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.last(features)


def student_example(student: nn.Module, image: Tensor, layer: str = "body") -> Example:
    features = student.eval().body(image).detach()
    knowledge = Knowledge(student(image).detach(), stages=(features,), final_map=features)
    return Example(knowledge, student.classifier, layers=(layer,), name="student", final_layer=layer)


def teacher_example(features: Tensor, classes: int = 5, bias: bool = True) -> Example:
    """A teacher by its last map, average-pooled for a classifier made of waves."""
    classifier = nn.Linear(features.shape[1], classes, bias=bias).to(features.dtype)
    fill(classifier)
    embedding = features.mean((2, 3))
    knowledge = Knowledge(classifier(embedding).detach(), embedding, (features,), final_map=features)
    return Example(knowledge, classifier, layers=("layer3",), name="teacher", final_layer="layer3")


@pytest.fixture
def image() -> Tensor:
    return wave(2, 3, 16, 16).float()


@pytest.fixture
def grafted(image: Tensor) -> SimKDStudent:
    torch.manual_seed(0)
    student = Student()
    return SimKD(factor=2).graft(student, student_example(student, image), teacher_example(wave(2, 6, 4, 4).float()))


def rebuilt(network: SimKDStudent) -> SimKDStudent:
    settings = network.config({})
    return SimKDStudent(Student(), **{key: settings[key] for key in settings if key not in ("_target_", "student")})


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 5, 1, 1), (4, 2, 3, 5)])
def test_the_loss_is_the_equation_written_out(shape: tuple[int, ...]) -> None:
    projected, teacher = wave(*shape), wave(*shape, step=0.91)
    pairs = zip(projected.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((one - other) ** 2 for one, other in pairs) / prod(shape)
    assert simkd_loss(projected, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert simkd_loss(teacher, teacher).item() == 0


@pytest.mark.parametrize(
    ("sides", "loss", "length"),
    [((8, 4), 0.5464753511818978, 0.5058135413072443), ((4, 8), 0.3640146070085579, 0.5021282333870953)],
)
def test_map_loss_and_logits_are_those_of_the_authors_code(sides: tuple[int, int], loss: float, length: float) -> None:
    # DefangChen/SimKD, commit d0b9cded, models/util.py, class SimKD, then the mean squared error of train_student.py:
    # a student's map that is larger than the teacher's, and one that is smaller.
    features, target = wave(2, 3, sides[0], sides[0]), wave(2, 6, sides[1], sides[1], step=0.91)
    teacher, seen = teacher_example(target), []
    learner = Example(Knowledge(wave(2, 5), stages=(features,)), layers=("last",))
    network = SimKD(factor=2).graft(Echo(), learner, teacher).double()
    fill(network.projector)
    fill(network.classifier)  # the graft itself copies it, in float32
    network.projector.register_forward_hook(lambda *call: seen.append(call[-1]))
    assert network(features).square().sum().item() == pytest.approx(length, rel=1e-9)
    assert simkd_loss(seen[0], target).item() == pytest.approx(loss, rel=1e-9)


def test_the_heads_loss_compares_the_projected_map_with_the_one_before_pooling() -> None:
    learner, teacher = knows(wave(2, 6, 4, 4)), teacher_example(wave(2, 6, 4, 4) + 2)
    head = SimKD(factor=2)
    head.build(Example(learner, layers=("projector",)), teacher, CONTEXT)
    assert head(learner, teacher.knowledge, LESSON, PROGRESS).item() == pytest.approx(4)
    assert not list(head.parameters())


def test_the_graft_answers_with_the_teachers_classifier_on_its_pooled_projection(
    grafted: SimKDStudent, image: Tensor
) -> None:
    teacher = teacher_example(wave(2, 6, 4, 4).float()).classifier
    logits = grafted.eval()(image)
    pooled = nn.functional.adaptive_avg_pool2d(grafted.student.body(image), 4)
    assert torch.allclose(logits, teacher(grafted.projector(pooled).mean((2, 3))), atol=1e-6)


def test_a_teacher_without_a_bias_gives_a_graft_without_one(image: Tensor) -> None:
    student = Student()
    teacher = teacher_example(wave(2, 6, 4, 4).float(), bias=False)
    network = SimKD(factor=2).graft(student, student_example(student, image), teacher)
    assert network.classifier.bias is None
    assert torch.equal(network.classifier.weight, teacher.classifier.weight)


def test_the_graft_leaves_the_original_student_alone(image: Tensor) -> None:
    student = Student()
    before = student.eval()(image)
    network = SimKD(factor=2).graft(student, student_example(student, image), teacher_example(wave(2, 6, 4, 4).float()))
    network.train()(image).sum().backward()
    assert torch.equal(student(image), before)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_all_but_the_classifier_learns_and_the_students_own_classifier_is_gone(
    grafted: SimKDStudent, image: Tensor
) -> None:
    grafted.train()(image).square().sum().backward()
    trained = {name for name, parameter in grafted.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in grafted.named_parameters() if parameter.grad is not None} == trained
    assert {name for name, _ in grafted.named_parameters()} - trained == {"classifier.weight", "classifier.bias"}
    assert not any(name.startswith("student.classifier") for name in grafted.state_dict())


def test_the_projector_is_counted(grafted: SimKDStudent) -> None:
    body = 4 * 3 * 9 + 4 + 2 * 4
    projector = (4 * 3 + 2 * 3) + (3 * 3 * 9 + 2 * 3) + (3 * 6 + 2 * 6)
    assert sum(parameter.numel() for parameter in grafted.parameters()) == body + projector + 6 * 5 + 5


def test_the_plain_config_and_the_weights_rebuild_the_graft(grafted: SimKDStudent, image: Tensor) -> None:
    grafted.train()(image)  # moves the running statistics
    config = grafted.config({"_target_": "a.network", "width": 2})
    assert json.loads(json.dumps(config)) == config
    assert config["_target_"] == f"{SimKDStudent.__module__}.{SimKDStudent.__name__}"
    assert config["student"] == {"_target_": "a.network", "width": 2}
    again = rebuilt(grafted)
    again.load_state_dict(grafted.state_dict())
    assert torch.equal(again.eval()(image), grafted.eval()(image))
    assert not again.classifier.weight.requires_grad


@pytest.mark.parametrize("layer", ["body", "pool:input"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_reads_its_own_student(way: str, layer: str, image: Tensor) -> None:
    torch.manual_seed(0)
    student = Student()
    learner = student_example(student, image, layer)
    network = SimKD(factor=2).graft(student, learner, teacher_example(wave(2, 6, 4, 4).float())).eval()
    expected = network(image)
    if way == "deepcopy":
        other = copy.deepcopy(network)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(network))
    else:
        file = io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(other(image), expected)
    with torch.no_grad():
        other.student.body[0].weight.mul_(2)
    assert not torch.allclose(other(image), expected)
    assert torch.equal(network(image), expected)


@pytest.mark.parametrize("layer", ["body", "pool:input"])
def test_a_graft_compiles_without_a_graph_break(layer: str, image: Tensor) -> None:
    student = Student()
    learner = student_example(student, image, layer)
    network = SimKD(factor=2).graft(student, learner, teacher_example(wave(2, 6, 4, 4).float())).eval()
    expected, names = network(image), list(network.state_dict())
    network.compile(backend="eager", fullgraph=True)
    assert torch.allclose(network(image), expected)
    assert list(network.state_dict()) == names


def test_a_graft_exports(grafted: SimKDStudent, image: Tensor) -> None:
    program = torch.export.export(grafted.eval(), (image,))
    assert torch.allclose(program.module()(image), grafted(image), atol=1e-6)


def test_tokens_are_projected_as_a_map() -> None:
    tokens = wave(2, 17, 3)  # a class token and 4 × 4 patches
    learner = Example(Knowledge(wave(2, 5), stages=(tokens,)), layers=("last",), name="vit")
    network = SimKD(factor=2).graft(Echo(), learner, teacher_example(wave(2, 6, 8, 8))).double()
    assert network.config({})["size"] is None
    assert network(tokens).shape == (2, 5)


def test_a_layer_that_does_not_run_is_named(grafted: SimKDStudent, image: Tensor) -> None:
    grafted.student.body = nn.Conv2d(3, 4, 1)
    with pytest.raises(RuntimeError, match="without its layer body"):
        grafted(image)


def test_teachers_whose_classifier_cannot_be_reused_are_refused(image: Tensor) -> None:
    student = Student()
    learner = student_example(student, image)
    features = wave(2, 6, 4, 4).float()
    with pytest.raises(ValueError, match="student has 5 classes and teacher 7"):
        SimKD(factor=2).graft(student, learner, teacher_example(features, classes=7))


def test_a_learner_that_was_not_grafted_is_refused(image: Tensor) -> None:
    learner = student_example(Student(), image)
    with pytest.raises(ValueError, match=r"student body gives \(2, 4, 8, 8\) and teacher layer3 \(2, 6, 4, 4\)"):
        SimKD(factor=2).build(learner, teacher_example(wave(2, 6, 4, 4)), CONTEXT)
