"""pkd: one token's state at several blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.core.knowledge import Example
from kdlab.heads.feature.pkd import PKD
from kdlab.heads.layers import paired_blocks
from support.sequence_examples import VALID, built, knows, value


@pytest.mark.parametrize(
    ("layers", "depths", "expected"),
    [
        # Sun et al., figure 1: of 12 blocks, skip takes 2, 4, 6, 8, 10, and last takes 7 to 11.
        ("skip", (6, 12), [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("last", (6, 12), [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]),
        # Jiao et al.: g(m) = 3 m for 4 of 12.
        ("uniform", (4, 12), [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("uniform", (5, 12), [(1, 3), (2, 5), (3, 8), (4, 10), (5, 12)]),
        ([[1, 1], [2, 0]], (2, 3), [(1, 1), (2, 0)]),
    ],
)
def test_blocks_are_paired_as_published(layers: object, depths: tuple[int, int], expected: list[object]) -> None:
    ours, theirs = (Example(knows(depth=depth)) for depth in depths)
    assert list(paired_blocks(ours, theirs, layers)) == expected


@pytest.mark.parametrize("layers", [[[1, 4]], [[3, 1]], "last", "skip"])
def test_a_pair_that_there_is_not_is_refused(layers: object) -> None:
    depths = {"last": (3, 1), "skip": (1, 3)}.get(layers if isinstance(layers, str) else "", (2, 3))
    ours, theirs = (Example(knows(depth=depth)) for depth in depths)
    with pytest.raises(ValueError, match=r"^layers=") as refused:
        paired_blocks(ours, theirs, layers)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layers", ["first", [[1]], [1, 2], [["a", "b"]]])
def test_what_is_no_mapping_is_refused(layers: object) -> None:
    with pytest.raises(ValueError, match=r"expected uniform, skip, last or pairs of blocks \[\[student, teacher\], "):
        PKD(layers, "first")


def test_a_token_is_the_first_or_the_last() -> None:
    with pytest.raises(ValueError, match=r"^token=mean: expected first or last$"):
        PKD("skip", "mean")


@pytest.mark.parametrize(("token", "places"), [("first", (0, 0, 0)), ("last", (3, 1, 0))])
@pytest.mark.parametrize("valid", [VALID, None])
def test_it_is_the_mean_squared_difference_of_directions(token: str, places: tuple[int, ...], valid: object) -> None:
    learner, teacher = knows(depth=3, valid=valid), knows(depth=6, phase=1.0, valid=valid)
    terms = []
    for ours, theirs in ((1, 2), (2, 4)):
        for sample, place in enumerate(places):
            place = 3 if valid is None and token == "last" else place
            one, other = (block[sample, place].numpy() for block in (learner.blocks[ours], teacher.blocks[theirs]))
            terms.append((one / np.linalg.norm(one) - other / np.linalg.norm(other)) ** 2)
    found = value(built(PKD("skip", token), learner, teacher), learner, teacher)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_a_narrower_student_is_mapped_at_every_block() -> None:
    learner, teacher = knows(depth=3, width=4), knows(depth=3, phase=1.0)
    head = built(PKD("uniform", "first"), learner, teacher)
    value(head, learner, teacher).backward()
    assert len(head.projections) == 3
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())
    assert torch.tensor([len(list(each.parameters())) for each in head.projections]).tolist() == [2, 2, 2]
