from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from kdlab.heads.relation.fsp import FSP, flow, fsp_loss
from support.relation_examples import CONTEXT, PROGRESS, example, knows, lesson, wave


def naive_fsp(student, teacher):
    total = 0.0
    for (one, two), (three, four) in zip(pairwise(student), pairwise(teacher), strict=True):
        squares = []
        for sample in range(len(one)):
            for a in range(one.shape[1]):
                for b in range(two.shape[1]):
                    ours = (one[sample, a] * two[sample, b]).sum() / one[sample, a].numel()
                    theirs = (three[sample, a] * four[sample, b]).sum() / three[sample, a].numel()
                    squares.append((ours - theirs) ** 2)
        total += sum(squares) / len(squares)
    return total


@pytest.mark.parametrize("side", [1, 3])
def test_loss_is_the_mean_squared_difference_of_products_over_positions(side):
    student = [wave(2, width, side, side, step=0.3 + width) for width in (2, 3, 1)]
    teacher = [wave(2, width, 4, 4, step=0.7 + width) for width in (2, 3, 1)]
    torch.testing.assert_close(fsp_loss(student, teacher), naive_fsp(student, teacher))


def test_constant_maps_give_the_difference_of_products_squared():
    student = [torch.full((2, 3, 4, 4), 2.0), torch.full((2, 5, 4, 4), 3.0)]
    teacher = [torch.full((2, 3, 2, 2), 1.0), torch.full((2, 5, 2, 2), -1.0)]
    assert fsp_loss(student, teacher).item() == 49.0  # (2 · 3 − 1 · −1)²


def test_the_larger_neighbour_is_average_pooled():
    deep = wave(2, 3, 2, 2)
    shallow = wave(2, 4, 4, 4)
    pooled = shallow.reshape(2, 4, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(flow(shallow, deep), flow(pooled, deep))


def test_loss_equals_the_published_code():
    # HobbitLong/RepDistiller 1e2f816, distiller_zoo/FSP.py, the sum of its list.
    student = [wave(2, 3, 8, 8, step=0.37), wave(2, 4, 4, 4, step=0.53), wave(2, 5, 4, 4, step=0.71)]
    teacher = [
        wave(2, 3, 8, 8, step=0.41, phase=1),
        wave(2, 4, 4, 4, step=0.59, phase=1),
        wave(2, 5, 4, 4, step=0.73, phase=1),
    ]
    assert fsp_loss(student, teacher).item() == pytest.approx(0.17135980325413283, rel=1e-9)


def test_equal_maps_lose_nothing():
    maps = [wave(2, 3, 4, 4), wave(2, 5, 2, 2)]
    assert fsp_loss(maps, maps).item() == 0.0


def test_gradient_is_that_of_the_value():
    student = [wave(2, 2, 4, 4).requires_grad_(), wave(2, 3, 2, 2, step=0.9).requires_grad_()]
    teacher = [wave(2, 2, 4, 4, step=1.1), wave(2, 3, 2, 2, step=1.3)]
    assert torch.autograd.gradcheck(lambda *maps: fsp_loss(maps, teacher), student)


def test_adapters_stand_only_where_channels_differ():
    head = FSP()
    vector = torch.zeros(2, 3)
    head.build(
        example(vector, torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)),
        example(vector, torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 4, 4)),
        CONTEXT,
    )
    assert [type(adapter) is nn.Identity for adapter in head.stages.adapters] == [True, False]


def test_a_network_of_fewer_stages_is_compared_with_the_deepest_of_the_other():
    ours = (wave(2, 3, 4, 4), wave(2, 5, 2, 2))
    theirs = (wave(2, 9, 8, 8), wave(2, 3, 4, 4, step=0.5), wave(2, 5, 2, 2, step=0.6))
    vector = torch.zeros(2, 3)
    head = FSP()
    head.build(example(vector, *ours), example(vector, *theirs), CONTEXT)
    learner = knows(vector, *ours)
    loss = head(learner, knows(vector, *theirs), lesson(learner), PROGRESS)
    torch.testing.assert_close(loss, fsp_loss(ours, theirs[1:]))


def test_the_stem_begins_the_first_of_three_flows():
    # HobbitLong/RepDistiller, train_student.py at 1143dfe: feat_s[:-1] of a network of three stages, four maps.
    ours = [wave(2, width, side, side, step=0.3 + width) for width, side in ((2, 8), (3, 8), (4, 4), (5, 2))]
    theirs = [wave(2, width, side, side, step=0.7 + width) for width, side in ((2, 8), (3, 8), (4, 4), (5, 2))]
    vector = torch.zeros(2, 3)

    learner, teacher = (replace(knows(vector, *maps[1:]), stem=maps[0]) for maps in (ours, theirs))
    head = FSP()
    head.build(*(replace(example(vector, *said.stages), knowledge=said) for said in (learner, teacher)), CONTEXT)
    expected = sum(fsp_loss(ours[i : i + 2], theirs[i : i + 2]) for i in range(3))
    torch.testing.assert_close(head(learner, teacher, lesson(learner), PROGRESS), expected)
    assert head.needs().learner.stem
    assert head.needs().teacher.stem


def test_without_a_stem_on_both_sides_the_flows_are_those_between_stages():
    ours, theirs = (wave(2, 3, 4, 4), wave(2, 5, 2, 2)), (wave(2, 3, 4, 4, step=0.5), wave(2, 5, 2, 2, step=0.6))
    vector = torch.zeros(2, 3)
    teacher = replace(knows(vector, *theirs), stem=wave(2, 4, 8, 8))
    head = FSP()
    head.build(example(vector, *ours), replace(example(vector, *theirs), knowledge=teacher), CONTEXT)
    learner = knows(vector, *ours)
    torch.testing.assert_close(head(learner, teacher, lesson(learner), PROGRESS), fsp_loss(ours, theirs))


def test_a_network_of_one_stage_is_refused_with_both_named():
    vector = torch.zeros(2, 3)
    one, two = (torch.zeros(2, 3, 4, 4),), (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match="small has 1 and big 2"):
        FSP().build(example(vector, *one, name="small"), example(vector, *two, name="big"), CONTEXT)
