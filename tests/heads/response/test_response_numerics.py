"""What every response head keeps to, whatever its formula."""

from __future__ import annotations

import pytest
import torch

from kdlab.heads.response.ctkd import CTKD
from kdlab.heads.response.dist import DIST
from kdlab.heads.response.dkd import DKD
from kdlab.heads.response.jsd import JSD
from kdlab.heads.response.kd import KD
from kdlab.heads.response.logit_mse import LogitMSE
from kdlab.heads.response.mlkd import MLKD
from kdlab.heads.response.nkd import NKD
from kdlab.heads.response.reverse_kl import ReverseKL
from kdlab.heads.response.rld import RLD
from kdlab.heads.response.soft_ce import SoftCE
from kdlab.heads.response.wsld import WSLD
from kdlab.heads.response.wttm import WTTM

HEADS = {
    "kd": lambda **more: KD(4.0, **more),
    "soft_ce": lambda **more: SoftCE(4.0, **more),
    "logit_mse": lambda **more: LogitMSE(**more),
    "reverse_kl": lambda **more: ReverseKL(1.0, **more),
    "jsd": lambda **more: JSD(0.3, 1.0, **more),
    "dkd": lambda **more: DKD(4.0, 1.0, 8.0, **more),
    "nkd": lambda **more: NKD(2.0, 1.5, **more),
    "dist": lambda **more: DIST(4.0, 2.0, 2.0, **more),
    "wsld": lambda **more: WSLD(2.0, **more),
    "mlkd": lambda **more: MLKD([2.0, 4.0], 0.5, 0.5, 0.5, strong=False, **more),
    "mlkd two views": lambda **more: MLKD([2.0, 4.0], 0.5, 0.5, 0.5, strong=True, **more),
    "rld": lambda **more: RLD(4.0, 1.0, 1.0, 8.0, **more),
    "wttm": lambda **more: WTTM(0.2, **more),
    "ctkd": lambda **more: CTKD(1.0, 20.0, 10, **more),
}
LABELLED = ("dkd", "nkd", "wsld", "rld")


def heads(*names):
    """A test of each of these heads, by the factory `make`."""
    return pytest.mark.parametrize("make", [HEADS[name] for name in names], ids=names)


each_head, each_labelled = heads(*HEADS), heads(*LABELLED)


@pytest.fixture
def answer(respond):
    """What a head answers, the strong view being the same as the weak."""

    def ask(head, student, teacher, label, **more):
        return respond(head, student, teacher, label, strong=(student, teacher), **more)

    return ask


@each_head
@pytest.mark.parametrize(
    ("dtype", "standardize"),
    [(torch.float16, False), (torch.bfloat16, False), (torch.float32, False), (torch.float32, True)],
)
def test_value_and_gradient_stay_finite(answer, make, dtype, standardize):
    far = torch.tensor([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0], [0.0, 0.0, 0.0], [1000.0, 0.0, -1000.0]])
    for student in (far, torch.zeros(4, 3), far[:1], torch.zeros(1, 3)):
        for teacher in (far, far.flip(0), torch.zeros(4, 3)):
            student = student.detach().to(dtype).requires_grad_()
            label = torch.arange(len(student)) % 3
            loss = answer(make(standardize=standardize), student, teacher[: len(student)].to(dtype), label)
            loss.sum().backward()
            assert loss.shape == (len(student),)
            assert loss.dtype == torch.float32
            assert loss.isfinite().all()
            assert student.grad.isfinite().all()


@heads(*[name for name in HEADS if name != "wsld"])  # its weight is not differentiated: see test_wsld.py
def test_gradient_is_the_derivative_of_the_value(sines, answer, make):
    student, teacher, label = sines(3, 4)
    head = make()
    answer(head, student, teacher, label)
    assert torch.autograd.gradcheck(lambda s: answer(head.double(), s, teacher, label), student.requires_grad_())


@each_head
def test_rows_follow_their_samples(sines, answer, make):
    student, teacher, label = sines()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    head = make()
    permuted = answer(head, student[order], teacher[order], label[order])
    torch.testing.assert_close(permuted, answer(head, student, teacher, label)[order])


@each_head
def test_standardized_logits_stand_for_any_scale_and_offset(sines, answer, make):
    # Sun et al., CVPR 2024: z -> (z - mean) / std, here by hand, and once more on logits of another scale.
    student, teacher, label = sines()
    plain = [(z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True).sqrt() + 1e-7) for z in (student, teacher)]
    expected = answer(make(), *plain, label)
    head = make(standardize=True)
    torch.testing.assert_close(answer(head, student, teacher, label), expected)
    torch.testing.assert_close(answer(head, 30 * student - 2, 0.2 * teacher + 5, label), expected, rtol=1e-5, atol=1e-5)


@heads(*[name for name in HEADS if name != "logit_mse"])  # an ensemble's logits are log-probabilities: see test_head.py
def test_an_ensemble_of_one_opinion_is_that_teacher(sines, respond, make):
    student, teacher, label = sines()
    strong = sines(shift=0.5)[:2]
    alone = respond(make(), student, teacher, label, strong=strong)
    members, unread = (teacher, teacher + 1), torch.full_like(teacher, torch.nan)
    ensemble = respond(make(), student, unread, label, members=members, strong=strong)
    torch.testing.assert_close(ensemble, alone)


@each_head
def test_no_value_is_read_on_the_host(answer, make):
    # Tensors without data: whatever waits for a value raises. On a GPU it would stall the step.
    student, teacher = torch.zeros(5, 3, device="meta", requires_grad=True), torch.zeros(5, 3, device="meta")
    head = make(standardize=True)
    with torch.device("meta"):
        loss = answer(head, student, teacher, torch.zeros(5, dtype=torch.long))
    loss.sum().backward()
    assert loss.shape == (5,)


@each_labelled
def test_rows_without_a_label_teach_nothing(sines, answer, make):
    student, teacher, label = sines()
    full = answer(make(), student, teacher, label)
    label[[1, 4]] = -1
    loss = answer(make(), student.requires_grad_(), teacher, label)
    loss.sum().backward()
    assert loss[[1, 4]].tolist() == [0.0, 0.0]
    assert student.grad[[1, 4]].abs().max() == 0
    labelled = [0, 2, 3, 5, 6, 7]
    torch.testing.assert_close(loss[labelled], full[labelled])


@each_labelled
def test_soft_labels_count_as_their_largest_class(sines, answer, make):
    student, teacher, label = sines()
    mixed = 0.6 * torch.nn.functional.one_hot(label, 10) + 0.4 * torch.nn.functional.one_hot((label + 5) % 10, 10)
    torch.testing.assert_close(
        answer(make(), student, teacher, mixed), answer(make(), student, teacher, label), rtol=0, atol=0
    )


@each_labelled
@pytest.mark.parametrize(("target", "given"), [(None, "no target"), (torch.zeros(8), r"torch.float32 \(8,\)")])
def test_a_target_that_is_no_class_is_refused(sines, answer, make, target, given):
    student, teacher, _ = sines()
    assert make().needs().labels
    with pytest.raises(ValueError, match=f"expected classes.*got {given}.*kd"):
        answer(make(), student, teacher, target)


@each_head
def test_only_ctkd_has_anything_to_learn(sines, answer, make):
    head = make()
    answer(head, *sines())
    assert len(list(head.parameters())) == (make is HEADS["ctkd"])
