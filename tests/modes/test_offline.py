"""Frozen teachers: one, several heard as one, several by confidence, several each for itself."""

import lightning.pytorch as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields, Needs, Progress
from kdlab.data.adapter import Foreign
from kdlab.heads.response.kd import KD
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Offline, confidence_weights
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.run.builder import assemble, example_batch
from kdlab.run.derive import compose_run
from kdlab.tasks.classification import Classification
from kdlab.training.distiller import Distiller
from kdlab.training.objective import Counts, Objective, Term
from support.objectives import CONTEXT, batch, put_together
from support.tiny_runs import TINY
from support.toys import Everything, Net, Prepared, Rows

WHOLE = Counts(6.0, 6.0)


def heard(combine, terms, teachers=2, **options):
    mode, objective = put_together(terms, teachers, mode=lambda cast: Offline(cast, combine=combine, **options))
    lessons = mode(batch(), Progress())
    said = [teacher(batch()).logits for teacher in mode.teachers]
    return mode, objective, lessons, said


def test_an_ensembles_probabilities_are_averaged_at_the_heads_own_temperature():
    _, objective, lessons, said = heard("probabilities", [Term("kd", lambda: KD(4.0), 1.0)], 3)
    _, (_, term) = objective(lessons, WHOLE, Progress())
    mean = torch.stack([(logits / 4).softmax(1) for logits in said]).mean(0)
    student = (lessons[0].learner.logits / 4).log_softmax(1)
    torch.testing.assert_close(term, 16 * kl_div(student, mean, reduction="batchmean").detach())
    at_one = (torch.stack([logits.softmax(1) for logits in said]).mean(0).log() / 4).softmax(1)
    assert abs(term - 16 * kl_div(student, at_one, reduction="batchmean").detach()) > 1e-6


def test_averaged_logits_are_another_ensemble():
    _, objective, lessons, said = heard("logits", [Term("kd", lambda: KD(4.0), 1.0)])
    _, (_, term) = objective(lessons, WHOLE, Progress())
    mean = ((said[0] + said[1]) / 8).softmax(1)
    student = (lessons[0].learner.logits / 4).log_softmax(1)
    torch.testing.assert_close(term, 16 * kl_div(student, mean, reduction="batchmean").detach())


def test_feature_heads_hear_every_teacher_and_response_heads_their_ensemble_once():
    mode, objective, lessons, _ = heard("probabilities", [Term("all", Everything, 1.0), Term("rows", Rows, 1.0)])
    assert [placed.edge.name for placed in objective.placed("all")] == ["student-0", "student-1"]
    assert [placed.edge.name for placed in objective.placed("rows")] == ["student-ensemble"]
    assert [placed.share for placed in objective.placed("all")] == [0.5, 0.5]
    objective.refuse_impossible(mode)
    loss, _ = objective(lessons, WHOLE, Progress())
    loss.backward()
    assert all(parameter.grad is not None for parameter in objective.heads["all"].parameters())


def test_confidence_weighs_each_sample_by_the_equation():
    torch.manual_seed(3)
    logits = [3 * torch.randn(5, 4) for _ in range(3)]
    target = torch.tensor([0, 3, -1, 2, 1])
    weights = confidence_weights(logits, target)
    for row, label in enumerate(target.tolist()):
        losses = [0.0 if label < 0 else -torch.log(said[row].softmax(0)[label]).item() for said in logits]
        powers = [torch.tensor(loss).exp().item() for loss in losses]
        by_hand = [(1 - power / sum(powers)) / 2 for power in powers]
        torch.testing.assert_close(weights[:, row], torch.tensor(by_hand))
        assert weights[:, row].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("teachers", [2, 3])
def test_the_loss_of_confident_teachers_is_the_weighted_sum_divided_by_their_number(teachers):
    # Rorozhl/CA-MKD helper/loops.py:220-229: Σ over teachers and samples, divided by both numbers.
    _, objective, lessons, said = heard("confidence", [Term("kd", lambda: KD(4.0), 1.0)], teachers)
    _, (_, term) = objective(lessons, WHOLE, Progress())
    weights = confidence_weights(said, batch()["target"])
    student = (lessons[0].learner.logits / 4).log_softmax(1)
    each = [16 * kl_div(student, (t / 4).softmax(1), reduction="none").sum(1) for t in said]
    total = sum((w * e).mean() for w, e in zip(weights, each, strict=True)) / teachers
    torch.testing.assert_close(term, total.detach())


def test_separate_teachers_have_weights_of_their_own():
    _, objective, lessons, said = heard("separate", [Term("rows", Rows, 1.0)], weights=[3.0, 1.0])
    _, (_, term) = objective(lessons, WHOLE, Progress())
    student = lessons[0].learner.logits.log_softmax(1)
    each = [(student - t.log_softmax(1)).square().sum(1).mean() for t in said]
    torch.testing.assert_close(term, (0.75 * each[0] + 0.25 * each[1]).detach())


def test_the_reference_of_several_teachers_is_their_ensemble():
    mode, _, _, said = heard("probabilities", [])
    torch.testing.assert_close(mode.reference(batch()).softmax(1), torch.stack([t.softmax(1) for t in said]).mean(0))


def test_teachers_may_be_shown_another_view():
    mode, _ = put_together([Term("rows", Rows, 1.0)], mode=lambda cast: Offline(cast, teacher_view="clean"))
    assert mode.shows == ("clean",)
    clean = {**batch(), "input": batch()["input"] * 0.5}
    (lesson,) = mode.lessons({**batch(), "views": {"clean": clean}}, Progress())
    torch.testing.assert_close(lesson.teachers[0].logits, mode.teachers[0](clean).logits)
    torch.testing.assert_close(lesson.learner.logits, mode.observed[0](batch()).logits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"combine": "sum"}, "mode.combine=sum: expected probabilities or logits or confidence or separate"),
        (
            {"weights": [1.0]},
            r"mode.weights=\[1.0\]: expected 2 numbers, 0 or more, in a list, and mode.combine=separate",
        ),
    ],
)
def test_a_wrong_way_to_combine_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        heard(options.pop("combine", "separate"), [], **options)


def test_a_teacher_is_frozen_and_no_part_of_the_mode():
    mode, _, lessons, _ = heard("probabilities", [])
    assert not any("teacher" in name for name in mode.state_dict())
    networks = [teacher.network for teacher in mode.teachers]
    assert all(isinstance(network, Net) and not network.training for network in networks)
    assert not any(module in networks for module in mode.modules())
    assert not any(knowledge.logits.requires_grad for knowledge in lessons[0].teachers)
    mode.train()
    assert not any(network.training for network in networks)
    assert cross_entropy(lessons[0].learner.logits, batch()["target"]).requires_grad


def test_a_teacher_of_other_classes_is_heard_in_those_that_both_know():
    torch.manual_seed(0)
    network = Net(classes=4)
    input = batch()["input"]
    classes = [2, None, None, 0, None, None, None, None, None, 3]
    teacher = Teacher("teacher", network, find_taps(network, input), classes=classes)
    student = Net(width=0.5)
    cast = Cast(lambda place=0: Observed("student", student, find_taps(student, input)), (teacher,), CONTEXT, batch())
    mode = Offline(cast)
    seen = {}

    class Watching(KD):
        def needs(self):
            return Needs(labels=True)

        def forward(self, learner, teacher, lesson, progress):
            seen["labels"] = lesson.target
            return super().forward(learner, teacher, lesson, progress)

    objective = Objective(mode, Classification(10), [Term("kd", lambda: Watching(2.0), 1.0)], 1.0, CONTEXT)
    objective.build(mode, batch(), 0)
    whole = {**batch(), "target": torch.tensor([0, 1, 3, 9, -1, 5])}
    lessons = mode(whole, Progress())
    _, (task, kd) = objective(lessons, WHOLE, Progress())
    s, t = lessons[0].learner.logits[:, [0, 3, 9]], network(input)[:, [2, 0, 3]]
    torch.testing.assert_close(
        kd, (4 * kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")).detach()
    )
    assert seen["labels"].tolist() == [0, -1, 1, 2, -1, -1]
    every = cross_entropy(lessons[0].learner.logits, whole["target"], ignore_index=-1, reduction="sum") / 6
    torch.testing.assert_close(task, every.detach())
    spread = mode.reference({"input": input}).softmax(1)
    torch.testing.assert_close(spread[:, [0, 3, 9]], t.softmax(1))
    assert spread[:, [1, 2, 4, 5, 6, 7, 8]].max() < 1e-20
    with pytest.raises(UsageError, match="teachers with other classes cannot be combined; type separate"):
        Offline(Cast(cast.learners, (teacher, teacher), CONTEXT, batch()))


@pytest.mark.parametrize("classes", [[3, 1, 2, 0, 9, 5, 6, 7, 8, 4], [11, 1, 2, 3, 4, 5, 6, 7, 8, 10]])
def test_a_teachers_classifier_is_handed_over_in_the_students_classes(classes):
    torch.manual_seed(0)
    network, input = Net(classes=12), batch()["input"]
    teacher = Teacher("teacher", network, find_taps(network, input), classes=classes)
    teacher.listen(Fields(embedding=True, classifier=True))
    example = teacher.example({"input": input})
    torch.testing.assert_close(example.knowledge.logits, network(input)[:, classes])
    torch.testing.assert_close(example.classifier(example.knowledge.vector()), example.knowledge.logits)
    assert not example.classifier.weight.requires_grad
    partial = Teacher("teacher", network, find_taps(network, input), classes=[None, *classes[1:]])
    assert (teacher.offers.classifier, partial.offers.classifier) == (True, False)


def test_a_reused_classifier_answers_in_the_students_classes_or_is_refused():
    tiny = ["model=resnet8", "model.width=0.125", "teacher=resnet8", "teacher.model.width=0.25", "loss=simkd"]
    order = [1, 0, *range(2, 10)]
    parts = assemble(compose_run([*tiny, f"teacher.classes={order}"]))
    (teacher,), student = parts.mode.teachers, parts.mode.learners[0]
    assert torch.equal(student.classifier.weight, teacher.network.fc.weight[order])
    with pytest.raises(
        UsageError, match=r"^loss=simkd needs the teacher's classifier, which this run does not provide$"
    ):
        assemble(compose_run([*tiny, "teacher.classes=[null,1,2,3,4,5,6,7,8,9]"]))
    with pytest.raises(
        UsageError, match=r"^loss=catkd needs the teacher's classifier, which this run does not provide$"
    ):
        assemble(compose_run([*tiny, "loss=catkd", "teacher.classes=[null,1,2,3,4,5,6,7,8,9]"]))


def test_a_view_that_a_head_reads_and_one_that_the_teacher_is_shown_go_together():
    views = ["+data.views.strong={}", "+data.views.clean={}", "mode.teacher_view=clean"]
    parts = assemble(compose_run(["model=resnet8", "teacher=resnet8", "loss=mlkd", *views]))
    strong, clean = ({**batch(), "input": batch()["input"] * factor} for factor in (2, 3))
    whole = {**batch(), "views": {"strong": strong, "clean": clean}}
    (lesson,) = parts.mode(whole, Progress())
    teacher, student = parts.mode.teachers[0].network, parts.mode.learners[0]
    assert [*lesson.views] == ["strong"]
    torch.testing.assert_close(lesson.views["strong"].teachers[0].logits, teacher(clean["input"]))
    torch.testing.assert_close(lesson.views["strong"].learner.logits, student(strong["input"]))


@pytest.mark.parametrize("combine", ["probabilities", "confidence"])
def test_heads_are_prepared_by_the_teachers_without_asking_the_student(combine):
    terms = [Term("prepared", Prepared, 1.0)]
    mode, objective, lessons, _ = heard(combine, terms)
    mode.observed[0].network.register_forward_hook(lambda *_: pytest.fail("the student was asked"))
    (taught,) = mode.taught(batch(), Progress())
    assert (len(taught.learner.logits), taught.target) == (0, None)
    same = {"heads": ("prepared",), "task_weight": 0.0, "prepare": True}
    loss, (task, term) = objective([taught], WHOLE, Progress(), **same)
    assert task == 0
    assert loss == term == objective(lessons, WHOLE, Progress(), **same)[0]


@pytest.mark.parametrize(("labels", "moved"), [(0.0, False), (0.5, True)])
def test_a_phase_that_prepares_leaves_the_student_as_it_is_unless_labels_count_in_it(labels, moved):
    first = f"loss.heads.ft.first={{epochs: 1, prepare: true, train: all, stays: true, task_weight: {labels}}}"
    config = compose_run([*TINY, "loss=ft", first, "trainer.max_epochs=1"])
    parts = assemble(config)
    distiller = Distiller(
        parts, 2, lambda parameters, _: SGD(parameters, lr=0.1), lambda made, *_: (ConstantLR(made, 1.0), "step")
    )
    statistics = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, *_):
            state = parts.mode.learners[0].state_dict()
            statistics.append(next(value.clone() for name, value in state.items() if name.endswith("running_mean")))

    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, limit_val_batches=0, callbacks=[Watch()],
    )  # fmt: skip
    batches = Foreign([example_batch(config, 8)] * 2)
    trainer.fit(distiller, batches, batches)
    assert torch.equal(*statistics) != moved
