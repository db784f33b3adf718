"""A head sees what it asks for and no more, and what it lacks is named."""

import pytest
import torch

from kdlab.core.knowledge import Fields, Knowledge, Needs, Offer, positions, shares


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        ("all", 3, (0, 1, 2)),
        ((-1,), 4, (3,)),
        ((2, 0), 3, (0, 2)),
        ((1, -2), 3, (1,)),  # the same stage, counted from either end
        ((), 3, ()),
    ],
)
def test_positions_count_from_either_end(asked, count, expected):
    assert positions(asked, count) == expected


@pytest.mark.parametrize("position", [3, -4])
def test_a_stage_outside_the_network_is_refused(position):
    with pytest.raises(IndexError, match=rf"^stage {position} was requested, but the network has 3 stages$"):
        positions((position,), 3)


def test_only_what_is_asked_for_is_left_in_its_place():
    maps = tuple(torch.full((2, 1, 1, 1), float(place)) for place in range(3))
    whole = Knowledge(torch.zeros(2, 4), torch.ones(2, 5), maps, maps)
    part = whole.only(Fields(stages=(0, -1)))
    assert [None if stage is None else float(stage[0]) for stage in part.stages] == [0.0, None, 2.0]
    assert part.preactivations == (None, None, None)
    assert part.embedding is None
    assert whole.only(Fields(embedding=True)).embedding is whole.embedding
    with pytest.raises(AssertionError, match="a head read what its `needs` do not declare"):
        part.stage(1)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [((0,), (-1, 0), (-1, 0)), ("all", (1,), "all"), ((1,), "all", "all"), ((), (2,), (2,)), ((), (), ())],
)
def test_what_two_heads_ask_for_is_asked_for_together(one, other, both):
    assert Fields(stages=one) | Fields(stages=other) == Fields(stages=both)
    assert Fields(preactivations=one) | Fields(preactivations=other) == Fields(preactivations=both)
    flags = Fields(embedding=True) | Fields(classifier=True) | Fields(normalisations=True)
    assert flags == Fields(embedding=True, classifier=True, normalisations=True)


@pytest.mark.parametrize(
    ("teacher", "offered", "missing"),
    [
        (Fields(embedding=True), Fields(stages="all"), ["the teacher's embedding"]),
        (Fields(preactivations=(-1,)), Fields(stages="all"), ["the teacher's preactivations"]),
        (Fields(preactivations="all"), Fields(stages="all"), []),  # all that there are, be it none
        (Fields(preactivations="all"), Fields(), ["the teacher's preactivations"]),
        (Fields(classifier=True, normalisations=True), Fields(stages="all", normalisations=True),
         ["the teacher's classifier"]),
    ],
)  # fmt: skip
def test_what_a_teacher_lacks_is_named(teacher, offered, missing):
    assert Needs(teacher=teacher).unmet(Offer(teacher=offered)) == missing


def test_labels_places_and_views_are_named_too():
    needs = Needs(learner=Fields(embedding=True), labels=True, index=True, views=("strong", "weak"))
    assert needs.unmet(Offer(labels=False, index=False, views=("weak",))) == [
        "the learner's embedding", "class labels", "fixed places in the training set", "the view 'strong'"
    ]  # fmt: skip
    assert needs.unmet(Offer(Fields(embedding=True), views=("strong", "weak"))) == []


def test_a_batch_is_shared_out_with_its_views_in_parts_that_differ_by_one_at_most():
    view = {"input": torch.arange(7) + 10, "index": torch.arange(7)}
    batch = {"input": torch.arange(7), "index": torch.arange(7), "views": {"strong": view}}
    parts = list(shares(batch, 3))
    assert [part["input"].tolist() for part in parts] == [[0, 1], [2, 3, 4], [5, 6]]
    assert [part["views"]["strong"]["input"].tolist() for part in parts] == [[10, 11], [12, 13, 14], [15, 16]]
    assert list(shares(batch, 1)) == [batch]
