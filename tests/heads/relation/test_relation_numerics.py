"""Of every relation head: any shapes, half types, silent maps, single samples, no gradient to the teacher."""

import pytest
import torch

from kdlab.heads.relation.cc import CC, cc_loss
from kdlab.heads.relation.crd import CRD
from kdlab.heads.relation.fsp import FSP, fsp_loss
from kdlab.heads.relation.ickd import ICKD, ickd_loss
from kdlab.heads.relation.kdsvd import KDSVD, kdsvd_loss
from kdlab.heads.relation.pkt import PKT, pkt_loss
from kdlab.heads.relation.rkd import RKD, rkd_loss
from kdlab.heads.relation.rrd import RRD, rrd_loss
from kdlab.heads.relation.sp import SP, sp_loss
from support.relation_examples import CONTEXT, PROGRESS, example, knows, lesson, wave

HEADS = {
    "fsp": FSP,
    "rkd": lambda: RKD(distance_weight=25.0, angle_weight=50.0),
    "sp": lambda: SP(stage=-1),
    "cc": lambda: CC(dim=8),
    "pkt": PKT,
    "crd": lambda: CRD(dim=8, negatives=6, momentum=0.5, nce_temperature=0.07),
    "ickd": lambda: ICKD(stage=-1),
    "kdsvd": lambda: KDSVD(vectors=1, candidates=4, damping=1e-3),
    "rrd": lambda: RRD(dim=8, memory=16, student_temperature=0.1, teacher_temperature=0.02),
}
LEARNS = {
    "fsp": True, "rkd": False, "sp": False, "cc": True, "pkt": False,
    "crd": True, "ickd": True, "kdsvd": True, "rrd": True,
}  # fmt: skip
NETWORKS = {
    "narrow cnn": lambda step: (wave(4, 6, step=step), [wave(4, 3, 8, 8, step=step), wave(4, 6, 4, 4, step=step)]),
    "wide cnn": lambda step: (
        wave(4, 10, step=step),
        [wave(4, 5, 16, 16, step=step), wave(4, 7, 8, 8, step=step), wave(4, 10, 4, 4, step=step)],
    ),
    "vit": lambda step: (wave(4, 8, step=step), [wave(4, 17, 8, step=step + 0.1 * block) for block in range(4)]),
}


def network(name, step, rows=4):
    embedding, maps = NETWORKS[name](step)
    return [value[:rows].float() for value in (embedding, *maps)]


def run(name, ours, theirs):
    head = HEADS[name]()
    head.build(example(*ours), example(*theirs), CONTEXT)
    leaves = [value.clone().requires_grad_() for value in (*ours, *theirs)]
    learner, teacher = knows(*leaves[: len(ours)]), knows(*leaves[len(ours) :]).detach()
    loss = head(learner, teacher, lesson(learner), PROGRESS)
    loss.backward()
    return head, loss, leaves[: len(ours)], leaves[len(ours) :]


@pytest.mark.parametrize("teacher", NETWORKS)
@pytest.mark.parametrize("learner", NETWORKS)
@pytest.mark.parametrize("name", HEADS)
def test_any_two_networks_are_compared(name, learner, teacher):
    torch.manual_seed(0)
    head, loss, ours, theirs = run(name, network(learner, 0.37), network(teacher, 0.53))
    assert loss.ndim == 0
    assert loss.isfinite()
    assert any(value.grad is not None and value.grad.norm() > 0 for value in ours)
    assert all(value.grad is None for value in theirs)
    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert bool(learned) == (LEARNS[name] and not (name in ("fsp", "kdsvd") and learner == teacher))
    assert all(parameter.grad is not None for parameter in learned)


@pytest.mark.parametrize("side", ["learner", "teacher", "both"])
@pytest.mark.parametrize("name", HEADS)
def test_a_silent_network_is_finite_and_pulls_moderately(name, side):
    torch.manual_seed(0)
    ours, theirs = network("narrow cnn", 0.37), network("wide cnn", 0.53)
    if side != "teacher":
        ours = [torch.zeros_like(value) for value in ours]
    if side != "learner":
        theirs = [torch.zeros_like(value) for value in theirs]
    _, loss, leaves, _ = run(name, ours, theirs)
    assert loss.isfinite()
    assert all(leaf.grad is None or leaf.grad.abs().max() < 1e5 for leaf in leaves)


@pytest.mark.parametrize("name", ["fsp", "ickd", "kdsvd", "crd", "rrd"])
def test_one_sample_is_enough_where_samples_are_not_compared_with_each_other(name):
    _, loss, _, _ = run(name, network("narrow cnn", 0.37, rows=1), network("wide cnn", 0.53, rows=1))
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["rkd", "sp", "cc", "pkt"])
def test_one_sample_is_refused_where_samples_are_compared_with_each_other(name):
    with pytest.raises(ValueError, match=f"{name} compares the samples of a batch with each other but got 1;"):
        run(name, network("narrow cnn", 0.37, rows=1), network("wide cnn", 0.53, rows=1))


ROWS, MAPS = (4, 6), (4, 6, 4, 4)
LOSSES = {
    "fsp": (MAPS, lambda s, t: fsp_loss([s, 2 * s], [t, 2 * t])),
    "rkd": (ROWS, lambda s, t: rkd_loss(s, t, 25.0, 50.0)),
    "sp": (MAPS, sp_loss),
    "cc": (ROWS, cc_loss),
    "pkt": (ROWS, pkt_loss),
    "ickd": (MAPS, ickd_loss),
    "kdsvd": (MAPS, lambda s, t: kdsvd_loss([s, s.mT], [t, t.mT], 1, 4, 1e-3)),
    "rrd": (ROWS, lambda s, t: rrd_loss(s, t, t, 4, 0.1, 0.02)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_types_are_raised_before_anything_is_computed(name, dtype):
    shape, loss = LOSSES[name]
    # Up to 100, whose squares summed over positions are beyond float16.
    student = (100 * wave(*shape)).to(dtype).requires_grad_()
    teacher = (100 * wave(*shape, step=0.9)).to(dtype)
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.detach().float(), teacher.float()))
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_float64_stays_float64(name):
    shape, loss = LOSSES[name]
    assert loss(wave(*shape), wave(*shape, step=0.9)).dtype == torch.float64
