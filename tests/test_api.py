"""`kdlab.distill` on plain PyTorch: networks and loaders that know nothing of kdlab."""

import math
from collections.abc import Iterator
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kdlab
from kdlab.core.errors import UsageError
from kdlab.heads.relation.crd import CRD

METRICS = {"accuracy", "cross_entropy", "calibration_error", "agreement", "teacher_kl"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> tuple[TensorDataset, TensorDataset]:
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(found.target).long()
    return TensorDataset(images[:600], labels[:600]), TensorDataset(images[600:900], labels[600:900])


@pytest.fixture
def train(digits) -> DataLoader:
    return DataLoader(digits[0], batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def validation(digits) -> DataLoader:
    return DataLoader(digits[1], batch_size=100)


def network(width: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(digits) -> nn.Module:
    """Trained by a loop of its own."""
    made = network(24)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    images, labels = digits[0].tensors
    for _ in range(6):
        for batch in torch.randperm(600, generator=torch.Generator().manual_seed(1)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(images[batch]), labels[batch]).backward()
            optimizer.step()
    return made


def accuracy(tested: nn.Module, digits) -> float:
    images, labels = digits[1].tensors
    with torch.no_grad():
        return float((tested(images).argmax(1) == labels).double().mean())


def test_a_student_learns_from_any_teacher_on_any_loader(digits, train, validation, teacher):
    student = network(8).eval()
    before = accuracy(student, digits)
    taught, result = kdlab.distill(student, teacher, train, validation, loss=kdlab.KD(temperature=4), epochs=6)
    assert taught is student
    assert not taught.training
    assert set(result) == {"teacher", "last", "best", "best_epoch", "seconds"}
    assert set(result["last"]) == set(result["best"]) == METRICS
    assert result["last"]["accuracy"] == pytest.approx(accuracy(taught, digits))
    assert result["teacher"]["accuracy"] == pytest.approx(accuracy(teacher.eval(), digits))
    assert result["last"]["accuracy"] > before + 0.3
    assert result["last"]["agreement"] > 0.5


def test_one_seed_is_one_student(digits, teacher):
    def taught() -> Tensor:
        loader = DataLoader(digits[0], batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(3))
        torch.rand(3)  # what was drawn before does not matter
        student, result = kdlab.distill(network(4), teacher, loader, loss=kdlab.KD(4.0), epochs=1)
        assert set(result) == {"seconds"}
        return student[0].weight.detach()

    assert torch.equal(taught(), taught())


def test_the_best_epoch_is_kept_where_asked(digits, train, validation, teacher):
    class Climb(torch.optim.SGD):
        """Goes down for an epoch of 12 steps, and up ever after, so that the first epoch is the best."""

        def __init__(self, parameters):
            super().__init__(parameters, lr=0.05, momentum=0.9)
            self.taken = 0

        def step(self, closure=None):
            self.taken += 1
            self.param_groups[0]["maximize"] = self.taken > 12
            return super().step(closure)

    student, result = kdlab.distill(network(4), teacher, train, validation, loss=kdlab.KD(4.0), epochs=3, keep="best",
                                    optimizer=Climb, precision="64-true")  # fmt: skip
    assert result["best_epoch"] == 1
    assert result["best"]["accuracy"] > result["last"]["accuracy"]
    assert accuracy(student.float(), digits) == pytest.approx(result["best"]["accuracy"])


def test_a_validation_loader_may_shuffle(digits, train, teacher):
    shuffled = DataLoader(digits[1], batch_size=100, shuffle=True, generator=torch.Generator().manual_seed(1))
    student, result = kdlab.distill(network(8), teacher, train, shuffled, loss=kdlab.KD(4.0), epochs=4)
    assert result["teacher"]["accuracy"] == pytest.approx(accuracy(teacher.eval(), digits))
    assert result["last"]["accuracy"] == pytest.approx(accuracy(student, digits))
    images = digits[1].tensors[0]
    with torch.no_grad():
        agree = (student(images).argmax(1) == teacher(images).argmax(1)).double().mean()
    assert result["last"]["agreement"] == pytest.approx(float(agree))


def test_callbacks_are_heard_and_the_rate_falls_to_the_end_of_as_many_batches_as_run(train, validation, teacher):
    class Watching(pl.Callback):
        rates: ClassVar[list[float]] = []

        def on_train_batch_start(self, trainer, *_):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    kdlab.distill(network(4), teacher, train, validation, loss=kdlab.KD(4.0), epochs=2, callbacks=[Watching()],
                  limit_train_batches=3)  # fmt: skip
    assert Watching.rates == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])


def test_gradients_are_clipped_where_asked(train, teacher):
    def moved(**clip):
        rate = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
        one = kdlab.distill(
            network(4), teacher, train, loss=kdlab.KD(4.0), epochs=1, optimizer=rate, max_steps=1, **clip
        )
        pairs = zip(one[0].parameters(), network(4).parameters(), strict=True)
        return float(sum((ours - theirs).detach().double().square().sum() for ours, theirs in pairs) ** 0.5)

    assert moved() > 0.02
    assert moved(gradient_clip=0.01) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("short", [{"epochs": 0}, {"epochs": 3, "max_steps": 2}])
def test_where_no_epoch_was_validated_the_last_weights_are_all_there_is(digits, train, validation, teacher, short):
    student, result = kdlab.distill(network(4), teacher, train, validation, loss=kdlab.KD(4.0), keep="best", **short)
    assert result["best_epoch"] is None
    assert result["best"] == result["last"]
    assert result["last"]["accuracy"] == pytest.approx(accuracy(student, digits))


class Endless:
    """Batches without a length."""

    def __iter__(self):
        yield torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)


ONE_HOT = [(torch.zeros(4, 1, 8, 8), torch.eye(10)[:4])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epochs": -1}, r"^epochs=-1: expected a whole number, 0 or more"),
        ({"alpha": 1.5}, r"^alpha=1.5: expected a number from 0 to 1$"),
        ({"alpha": float("nan")}, r"^alpha=nan: expected a finite number$"),
        ({"gradient_clip": 0}, r"^gradient_clip=0: expected a number above 0$"),
        ({"max_epochs": 3}, r"^max_epochs=3: write epochs=3$"),
        ({"gradient_clip_val": 1.0}, r"^gradient_clip_val=1.0: write gradient_clip=1.0$"),
        ({"train": Endless()}, r"^train: Endless has no length; expected a DataLoader"),
        ({"validation": Endless()}, r"^validation: Endless has no length; expected a DataLoader"),
        ({"train": []}, r"^train: it has no batches$"),
        ({"validation": []}, r"^validation: it has no batches; leave it out$"),
        ({"validation": ONE_HOT}, r"^validation: targets \[4, 10\] are shares of classes, .*; expected classes \[N\]"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_trains(train, teacher, arguments, said):
    student = network(4)
    before = student[0].weight.clone()
    with pytest.raises(UsageError, match=said):
        kdlab.distill(student, teacher, **{"train": train, "loss": kdlab.KD(4.0), "epochs": 1, **arguments})
    assert torch.equal(student[0].weight, before)


def test_shares_of_classes_can_be_trained_on(train, validation, teacher):
    kdlab.distill(network(4), teacher, ONE_HOT, validation, loss=kdlab.KD(4.0), epochs=1)


def test_losses_add_up_with_weights_of_their_own(digits, train, validation, teacher):
    terms = [
        kdlab.Term("kd", lambda: kdlab.KD(temperature=4.0), 0.9),
        kdlab.Term("hint", lambda: kdlab.FitNet(stage=-1), 1.0),
    ]
    before = accuracy(network(4).eval(), digits)
    student, result = kdlab.distill(network(4), teacher, train, validation, loss=terms, epochs=4)
    assert result["last"]["accuracy"] > before + 0.2
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in network(4).named_parameters()]
    hooked = (module for module in (*student.modules(), *teacher.modules()) if module._forward_hooks)
    assert not list(hooked)


def test_batches_may_be_dicts(digits, teacher):
    images, labels = digits[0].tensors
    pairs = [(images[place : place + 50], labels[place : place + 50]) for place in range(0, 200, 50)]
    dicts = [{"input": input, "target": target} for input, target in pairs]
    one, other = (
        kdlab.distill(network(4), teacher, batches, loss=kdlab.KD(4.0), epochs=1) for batches in (pairs, dicts)
    )
    assert torch.equal(one[0][0].weight, other[0][0].weight)


def test_the_teacher_is_afterwards_as_it_was(train, teacher):
    teacher.train()
    teacher[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    kdlab.distill(network(4), teacher, train, loss=kdlab.KD(4.0), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())
    assert [name for name, parameter in teacher.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    teacher[0].weight.requires_grad_(True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"loss": CRD(dim=8, negatives=16, momentum=0.5, nce_temperature=0.1)},
            "loss=loss needs fixed places in the training set, which this run does not provide",
        ),
        ({"loss": [kdlab.KD(4.0)]}, r"loss: expected a head such as KD"),
        ({"loss": []}, "loss: expected a head"),
        ({"loss": kdlab.KD(4.0), "keep": "best"}, "keep='best': expected 'last', or with validation 'best'"),
        ({"loss": kdlab.KD(4.0), "keep": "first"}, "keep='first': expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_says_why(train, teacher, arguments, said):
    student = network(4)
    before = student[0].weight.clone()
    with pytest.raises(ValueError, match=said):
        kdlab.distill(student, teacher, train, **{"epochs": 1, **arguments})
    assert torch.equal(student[0].weight, before)


def test_a_student_of_other_classes_is_refused_with_both_numbers(train, teacher):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ValueError, match=r"7 .* 10"):
        kdlab.distill(other, teacher, train, loss=kdlab.KD(4.0), epochs=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_and_batches_of_another_type_are_judged_after_training(dtype, digits):
    images, labels = digits[0].tensors
    batches = [(images[start : start + 50].to(dtype), labels[start : start + 50]) for start in (0, 50)]
    _, result = kdlab.distill(
        network(4, 1).to(dtype), network(8).to(dtype), batches, batches, loss=kdlab.KD(4.0), epochs=1,
        accelerator="cpu", precision={torch.float64: "64-true", torch.bfloat16: "bf16-true"}[dtype],
    )  # fmt: skip
    assert 0 <= result["last"]["accuracy"] <= 1
