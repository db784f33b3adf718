"""Phases with their own part of the data, and classes that a supervised loss chooses from."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.nn.functional import cross_entropy

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Knowledge, Lesson
from kdlab.data.check import DataError
from kdlab.data.dataset import load
from kdlab.run.derive import alone_run, compose_run
from kdlab.run.fit import fit
from kdlab.training.phases import Phase
from kdlab.training.terms import among_classes, chosen_from
from kdlab.training.timeline import Timeline
from support.tiny_runs import TINY, machine

TASKS = "phases=[{epochs: 2, part: {label: [0,1,2]}, among: [0,1,2]}, {epochs: 1, part: {label: [7]}}, {epochs: 1}]"


class Seen(pl.Callback):
    """What the learner was shown, epoch by epoch."""

    def __init__(self):
        self.labels, self.places, self.progress = {}, {}, {}

    def on_train_batch_end(self, trainer, distiller, outputs, batch, place):
        epoch = trainer.current_epoch
        self.labels.setdefault(epoch, []).extend(batch["target"].tolist())
        self.places.setdefault(epoch, []).extend(batch["index"].tolist())
        self.progress[epoch] = distiller.epochs_done()


@pytest.fixture
def place(tmp_path):
    with machine(tmp_path / "home"):
        yield tmp_path


def fitted(place, *overrides):
    config = compose_run([*TINY, "alone=false", *overrides])
    data, seen = load(config.data.plain()), Seen()
    fit(config, data, place / "run", job="offline", callbacks=[seen])
    return data, seen


def test_each_phase_sees_its_part_of_the_data_and_places_stay_those_of_the_whole(place):
    data, seen = fitted(place, TASKS)
    labels = data.labels
    for epoch, classes in enumerate([{0, 1, 2}, {0, 1, 2}, {7}, set(range(10))]):
        assert set(seen.labels[epoch]) == classes
        assert labels[torch.tensor(seen.places[epoch])].tolist() == seen.labels[epoch]
        there = int(torch.isin(labels, torch.tensor([*classes])).sum())
        assert there - len(seen.places[epoch]) in range(64), "at most the last, smaller batch is left out"
        assert len(set(seen.places[epoch])) == len(seen.places[epoch])
        assert seen.progress[epoch] == epoch + 1
    assert seen.places[0] != seen.places[1]


def test_the_student_alone_goes_through_the_same_stream():
    alone = alone_run(compose_run([*TINY, TASKS]))
    assert [(phase.epochs, phase.part, phase.among) for phase in alone.phases] == [
        (2, {"label": (0, 1, 2)}, (0, 1, 2)), (1, {"label": (7,)}, None), (1, None, None),
    ]  # fmt: skip
    assert alone.loss.heads == {}
    assert alone_run(compose_run(TINY)).phases is None


def test_a_supervised_loss_chooses_from_the_classes_of_its_phase():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 5), torch.tensor([1, 3, 1, 3, 3, 1])
    lesson = Lesson(Knowledge(logits), (), target, torch.arange(6))
    (limited,) = chosen_from([lesson], [1, 3])
    from kdlab.tasks.classification import Classification

    task = Classification(5)
    by_hand = cross_entropy(logits[:, [1, 3]], (target == 3).long(), reduction="none")
    torch.testing.assert_close(task.loss(among_classes(limited.learner.logits, limited.among), target), by_hand)
    soft = torch.zeros(6, 5).scatter_(1, target[:, None], 1.0)
    torch.testing.assert_close(task.loss(among_classes(limited.learner.logits, limited.among), soft), by_hand)
    assert chosen_from([lesson], None) == [lesson]


def test_steps_and_epochs_are_counted_over_phases_of_other_lengths():
    timeline = Timeline.of([Phase(epochs=2), Phase(epochs=0), Phase(epochs=3)], [4, 9, 2])
    assert [timeline.start(place) for place in range(3)] == [0, 8, 8]
    assert [timeline.place(step) for step in (0, 7, 8, 13, 14, 99)] == [0, 0, 2, 2, 2, 2]
    assert [timeline.epoch(step) for step in (0, 5, 8, 9, 11)] == [(0, 0), (1, 1), (2, 0), (2, 1), (3, 1)]
    assert [timeline.epochs_at(step) for step in (0, 6, 9, 14)] == [0, 1.5, 2.5, 5]
    assert Timeline.of([Phase(epochs=2), Phase(epochs=1)], 5).steps == (5, 5)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("{label: [11]}", r"part=\{'label': \(11,\)\} leaves 0 training samples; expected 2 or more"),
        ("{speaker: [1]}", r"part\.speaker: these data have no such column"),
    ],
)
def test_a_part_that_is_not_there_is_refused(place, part, said):
    with pytest.raises(DataError, match=said):
        fitted(place, f"phases=[{{epochs: 1, part: {part}}}]")


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(UsageError, match=r"phases\.0\.part=3: expected a group such as \{label: \[0, 1\]\}"):
        compose_run([*TINY, "phases=[{epochs: 1, part: 3}]"])


def test_a_label_that_a_phase_leaves_out_is_refused_before_training(place):
    from kdlab.run.preflight import check_samples

    config = compose_run([*TINY, "phases=[{epochs: 1, part: {label: [0, 1]}, among: [0]}]"])
    with pytest.raises(UsageError, match=r"among=\[0\] leaves out the label 1 of its own samples"):
        check_samples(config, load(config.data.plain()))
