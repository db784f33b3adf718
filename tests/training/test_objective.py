"""The loss of a step adds up as written, and a head sees exactly what it asked for. Toy heads use every field."""

from dataclasses import replace

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Knowledge, Lesson, Progress
from kdlab.heads.response.kd import KD
from kdlab.heads.response.mlkd import MLKD
from kdlab.modes.offline import Offline
from kdlab.modes.supervised import Supervised
from kdlab.tasks.classification import Classification
from kdlab.training.objective import Counts, Objective, Term
from support.objectives import CONTEXT, batch, put_together
from support.toys import Everything, Plain, Prepared, Regression, Rows, Silent

WHOLE = Counts(6.0, 6.0)


def separate(cast):
    return Offline(cast, combine="separate")


def test_a_loss_of_two_heads_and_two_teachers_is_the_sum_that_is_written():
    terms = [Term("kd", lambda: KD(4.0), 0.9), Term("rows", Rows, 2.0)]
    mode, objective = put_together(terms, teachers=2, task_weight=0.25, mode=separate)
    lessons = mode(batch(), Progress())
    loss, parts = objective(lessons, WHOLE, Progress())
    (lesson,) = lessons
    s = lesson.learner.logits
    by_hand = {
        "task": torch.nn.functional.cross_entropy(s, batch()["target"]),
        "kd": sum(
            16 * torch.nn.functional.kl_div((s / 4).log_softmax(1), (t.logits / 4).softmax(1), reduction="batchmean")
            for t in lesson.teachers
        ) / 2,
        "rows": sum((s.log_softmax(1) - t.logits.log_softmax(1)).square().sum(1).mean() for t in lesson.teachers) / 2,
    }  # fmt: skip
    assert objective.names == ("task", "kd", "rows")
    torch.testing.assert_close(parts, torch.stack([by_hand[name].detach() for name in objective.names]))
    torch.testing.assert_close(loss, 0.25 * by_hand["task"] + 0.9 * by_hand["kd"] + 2.0 * by_hand["rows"])


def test_a_head_sees_what_it_asked_for_and_no_more():
    put = put_together([Term("everything", Everything, 1.0), Term("plain", Plain, 1.0)])
    mode, objective = put
    loss, _ = objective(mode(batch(), Progress()), WHOLE, Progress(3, 30, 5, 50))
    loss.backward()
    seen = Everything.seen
    assert [linear.weight.shape for linear in seen["classifiers"]] == [(10, 8), (10, 16)]
    assert [[norm.num_features for norm in side] for side in seen["normalisations"]] == [[4, 8], [8, 16]]
    assert seen["layers"] == (("stage1", "stage2"), ("stage1", "stage2"))
    assert (seen["labels"].tolist(), seen["classes"], seen["samples"]) == (CONTEXT.labels.tolist(), 10, 40)
    assert seen["progress"] == (3, 30, 5, 50)
    assert seen["lesson"].target.tolist() == batch()["target"].tolist()
    assert seen["lesson"].index.tolist() == list(range(7, 13))
    assert len(seen["lesson"].teachers) == 1
    learner, teacher = seen["learner"], seen["teacher"]
    assert [tuple(stage.shape) for stage in learner.stages] == [(6, 4, 8, 8), (6, 8, 4, 4)]
    assert learner.preactivations[0] is None
    assert learner.preactivation(-1).min() < 0 <= learner.stage(-1).min()
    torch.testing.assert_close(seen["classifiers"][1](teacher.vector()), teacher.logits)
    assert all(parameter.grad is not None for parameter in objective.heads.parameters())
    assert not any(parameter.requires_grad for parameter in mode.teachers[0].network.parameters())


def test_unlabelled_rows_take_part_in_distillation_alone():
    mode, objective = put_together([Term("kd", lambda: KD(1.0), 1.0)])
    whole = batch()
    whole["target"] = torch.tensor([3, -1, -1, 5, -1, 0])
    lessons = mode(whole, Progress())
    _, (task, kd) = objective(lessons, Counts(6.0, 3.0), Progress())
    s, t = lessons[0].learner.logits, lessons[0].teachers[0].logits
    rows = [0, 3, 5]
    torch.testing.assert_close(task, torch.nn.functional.cross_entropy(s[rows], whole["target"][rows]).detach())
    kl = torch.nn.functional.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")
    torch.testing.assert_close(kd, kl.detach())
    whole["target"] = torch.full((6,), -1)
    _, (task, _) = objective(mode(whole, Progress()), Counts(6.0, 1.0), Progress())
    assert task == 0


def test_weights_count_rows_and_mask_them():
    mode, objective = put_together([Term("rows", Rows, 1.0)], teachers=2, mode=separate)
    (lesson,) = mode(batch(), Progress())
    weight = torch.tensor([[1.0, 0.0, 0.5, 1.0, 1.0, 2.0], [0.0] * 6])
    _, (_, term) = objective([replace(lesson, weight=weight)], WHOLE, Progress())
    each = (lesson.learner.logits.log_softmax(1) - lesson.teachers[0].logits.log_softmax(1)).square().sum(1)
    torch.testing.assert_close(term, ((each * weight[0]).sum() / 6 / 2).detach())


def test_parts_of_a_batch_add_up_to_the_whole():
    mode, objective = put_together([Term("rows", Rows, 1.0), Term("plain", Plain, 1.0)], dtype=torch.float64)
    mode.eval()
    whole = {**batch(), "input": batch()["input"].double()}
    loss, parts = objective(mode(whole, Progress()), WHOLE, Progress())
    total = torch.zeros(3, dtype=torch.float64)
    for start in (0, 3):
        part = {key: value[start : start + 3] for key, value in whole.items()}
        total += objective(mode(part, Progress()), Counts(6.0, 6.0, 0.5), Progress())[1]
    torch.testing.assert_close(total[:2], parts[:2])
    assert loss.dtype == torch.float64


def test_views_reach_the_heads_that_asked():
    mode, objective = put_together([Term("everything", lambda: Everything(("strong",)), 1.0), Term("plain", Plain, 1)])
    whole = {**batch(), "views": {"strong": {**batch(), "input": batch()["input"] * 2}}}
    objective(mode(whole, Progress()), WHOLE, Progress())
    strong = Everything.seen["lesson"].views["strong"]
    assert isinstance(strong, Lesson)
    assert len(strong.teachers) == 1
    assert not torch.equal(strong.learner.logits, Everything.seen["lesson"].learner.logits)
    with pytest.raises(UsageError, match="loss=everything needs the view 'strong', which"):
        objective.refuse_impossible(mode)
    objective.refuse_impossible(mode, views=("strong",))


def test_the_labels_of_a_view_count_where_a_head_that_speaks_asks_for_it():
    # Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py at 6327e73: one cross-entropy for each
    # view, both of the weight of the labels.
    mlkd = Term("mlkd", lambda: MLKD([4.0], 1.0, 0.0, 0.0, strong=True), 0.0)
    mode, objective = put_together([mlkd, Term("kd", lambda: KD(4.0), 0.0)], task_weight=0.1)
    whole = {**batch(), "views": {"strong": {**batch(), "input": batch()["input"] * 2}}}
    whole["target"] = whole["views"]["strong"]["target"] = torch.tensor([3, -1, 2, 5, -1, 0])
    lessons = mode(whole, Progress())
    weak, strong = lessons[0], lessons[0].views["strong"]
    each = [
        torch.nn.functional.cross_entropy(view.learner.logits, whole["target"], ignore_index=-1)
        for view in (weak, strong)
    ]
    loss, parts = objective(lessons, Counts(6.0, 4.0), Progress())
    torch.testing.assert_close(loss, 0.1 * (each[0] + each[1]))
    torch.testing.assert_close(parts[0], (each[0] + each[1]).detach())
    alone, _ = objective(lessons, Counts(6.0, 4.0), Progress(), heads=["kd"])
    torch.testing.assert_close(alone, 0.1 * each[0])


def test_soft_targets_are_read_at_each_heads_own_temperature():
    mode, objective = put_together([Term("rows", lambda: Rows(2.0), 1.0)])
    (lesson,) = mode(batch(), Progress())
    members = tuple(torch.randn(6, 10, generator=torch.Generator().manual_seed(k)) for k in range(3))
    ensemble = Knowledge(torch.stack(members).mean(0), members=members)
    _, (_, term) = objective([replace(lesson, teachers=(ensemble,))], WHOLE, Progress())
    mean = torch.stack([(member / 2).softmax(1) for member in members]).mean(0).log()
    by_hand = (lesson.learner.logits.log_softmax(1) - mean).square().sum(1).mean()
    torch.testing.assert_close(term, by_hand.detach())


def test_a_ramp_rises_linearly_and_stays():
    term = Term("kd", lambda: KD(1.0), 2.0, ramp=4)
    assert [term.weight_at(epoch) for epoch in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    mode, objective = put_together([term], task_weight=0.0)
    lessons = mode(batch(), Progress())
    early, parts = objective(lessons, WHOLE, Progress(0))
    torch.testing.assert_close(early, 0.5 * parts[1])


def test_a_phase_chooses_heads_and_may_prepare_them():
    mode, objective = put_together([Term("prepared", Prepared, 1.0), Term("plain", Plain, 1.0)])
    lessons = mode(batch(), Progress())
    loss, parts = objective(lessons, WHOLE, Progress(), heads=("prepared",), task_weight=0.0, prepare=True)
    assert parts[2] == 0
    loss.backward()
    head = objective.placed("prepared")[0].head
    assert head.code.weight.grad is not None
    assert head.adapter.weight.grad is None
    assert all(parameter.grad is None for parameter in mode.learners.parameters())


def test_what_is_fitted_before_training_is_fitted_at_its_whole_weight():
    mode, objective = put_together([Term("prepared", Prepared, 7.0, ramp=4)])
    loss, parts = objective(mode(batch(), Progress()), WHOLE, Progress(), task_weight=0.0, prepare=True)
    torch.testing.assert_close(loss, parts[1])


def test_the_classes_a_teacher_knows_are_no_part_of_what_is_saved():
    mode, _ = put_together([])
    mode.known = lambda edge: torch.arange(3)
    objective = Objective(mode, Classification(10), [], 1.0, CONTEXT)
    assert [name for name, _ in objective.named_buffers()] == ["known0"]
    assert objective.state_dict() == {}


def test_a_view_that_the_mode_shows_must_be_among_the_datas():
    class Shows(Offline):
        shows = ("second",)

    mode, objective = put_together([], mode=Shows)
    with pytest.raises(UsageError, match=r"view 'second', .* type \+data\.views\.second=\{\}$"):
        objective.refuse_impossible(mode)
    objective.refuse_impossible(mode, views=("second",))


def test_what_a_mode_does_not_provide_is_refused_by_name():
    mode, objective = put_together([Term("kd", lambda: KD(1.0), 1.0)], mode=Silent)
    objective.refuse_impossible(mode)
    impossible = Objective(mode, Classification(10), [Term("everything", Everything, 1.0)], 1.0, CONTEXT)
    with pytest.raises(UsageError) as refused:
        impossible.refuse_impossible(mode, index=False)
    assert str(refused.value) == (
        "loss=everything needs the teacher's embedding and the teacher's stages and the teacher's preactivations and "
        "the teacher's classifier and the teacher's normalisations and fixed places in the training set, "
        "which this run does not provide"
    )


def test_a_task_of_another_kind_needs_no_change_of_anything():
    mode, objective = put_together([Term("rows", Rows, 1.0)], task=Regression())
    whole = batch()
    whole["target"] = torch.randn(6, 10, generator=torch.Generator().manual_seed(2))
    whole["target"][2] = torch.nan
    lessons = mode(whole, Progress())
    _, (task, _) = objective(lessons, Counts(6.0, 5.0), Progress())
    kept = [0, 1, 3, 4, 5]
    by_hand = (lessons[0].learner.logits[kept] - whole["target"][kept]).square().mean(1).mean()
    torch.testing.assert_close(task, by_hand.detach())
    labelled = Objective(mode, Regression(), [Term("everything", Everything, 1.0)], 1.0, CONTEXT)
    with pytest.raises(UsageError, match="loss=everything needs class labels, which this run does not provide"):
        labelled.refuse_impossible(mode)


def test_a_dry_run_moves_no_statistic_and_no_random_number():
    mode, _ = put_together([])
    objective = Objective(mode, Classification(10), [Term("everything", Everything, 1.0)], 1.0, CONTEXT)
    before = torch.get_rng_state()
    objective.build(mode, batch(), 0)
    assert torch.equal(torch.get_rng_state(), before)
    tracked = [module.num_batches_tracked for network in (*mode.learners, mode.teachers[0].network)
               for module in network.modules() if hasattr(module, "num_batches_tracked")]  # fmt: skip
    assert tracked == [0, 0, 0, 0]


def test_what_a_head_starts_from_depends_on_its_edge_and_the_seed_alone():
    mode, _ = put_together([])

    def adapter(names, seed, ambient):
        terms = [Term(name, Everything if name == "everything" else Prepared, 1.0) for name in names]
        objective = Objective(mode, Classification(10), terms, 1.0, CONTEXT)
        torch.manual_seed(ambient)
        objective.build(mode, batch(), seed)
        return objective.placed("everything")[0].head.adapter.weight

    one = adapter(["everything"], 0, ambient=5)
    assert torch.equal(adapter(["prepared", "everything"], 0, ambient=6), one)
    assert not torch.equal(adapter(["everything"], 1, ambient=5), one)


def test_losses_compute_in_float32_when_networks_run_in_half():
    mode, objective = put_together([Term("kd", lambda: KD(4.0), 0.9), Term("everything", Everything, 1.0)])
    with torch.autocast("cpu", torch.bfloat16):
        lessons = mode(batch(), Progress())
        assert lessons[0].learner.logits.dtype == torch.bfloat16
        loss, parts = objective(lessons, WHOLE, Progress())
    assert loss.dtype == parts.dtype == torch.float32
    assert Everything.seen["teacher"].stage(0).dtype == torch.float32
    loss.backward()


def test_supervised_has_one_learner_and_no_edges():
    mode, objective = put_together([], mode=Supervised)
    loss, parts = objective(mode(batch(), Progress()), WHOLE, Progress())
    assert (objective.names, len(parts), mode.edges) == (("task",), 1, ())
    assert loss == parts[0]
