"""Ragged columns of token ids against plain lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from kdlab.data.tokens import Tokens, tokens

ROWS = [[5, 6, 7], [8], [], [9, 10, 11, 12, 13, 14, 15, 16, 17]]


def listed(column: Tokens) -> list[list[int]]:
    return [column.ids[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def test_a_column_holds_the_rows_it_was_given() -> None:
    column = tokens(ROWS)
    assert listed(column) == ROWS
    assert len(column) == 4
    assert column.bytes == 13 * 4
    assert column.lengths.tolist() == [3, 1, 0, 9]


def test_padding_is_on_the_right_and_the_mask_says_where() -> None:
    ids, mask = tokens(ROWS, padding=99).padded(torch.tensor([1, 0]))
    assert ids.tolist() == [[8] + [99] * 7, [5, 6, 7] + [99] * 5]
    assert mask.tolist() == [[1] + [0] * 7, [1, 1, 1] + [0] * 5]
    assert ids.dtype == mask.dtype == torch.int64


@pytest.mark.parametrize(
    ("rows", "limit", "width"), [([1], None, 8), ([0, 3], None, 16), ([3], 10, 10), ([3], 4, 4), ([2], None, 8)]
)
def test_a_batch_is_as_wide_as_its_longest_row_rounded_up_to_eight_within_the_limit(
    rows: list[int], limit: int | None, width: int
) -> None:
    ids, mask = tokens(ROWS, limit=limit).padded(torch.tensor(rows))
    assert ids.shape == mask.shape == (len(rows), width)


@given(
    some.lists(some.lists(some.integers(0, 30_000), max_size=20), min_size=1, max_size=12),
    some.lists(some.integers(0, 1000), min_size=1, max_size=9),
    some.none() | some.integers(1, 24),
)
def test_any_rows_come_out_as_they_went_in(rows: list[list[int]], picks: list[int], limit: int | None) -> None:
    chosen = [pick % len(rows) for pick in picks]
    column = tokens(rows, padding=7, limit=limit)
    assert listed(column.take(torch.tensor(chosen))) == [rows[place] for place in chosen]
    assert listed(column.join(column.take(torch.tensor(chosen)))) == rows + [rows[place] for place in chosen]
    ids, mask = column.padded(torch.tensor(chosen))
    for place, row, valid in zip(chosen, ids, mask, strict=True):
        assert row[valid.bool()].tolist() == rows[place][:limit]
        assert set(row[~valid.bool()].tolist()) <= {7}
        assert valid.tolist() == sorted(valid.tolist(), reverse=True)


def test_a_whole_column_of_empty_rows_is_all_padding() -> None:
    ids, mask = tokens([[], []], padding=3).padded(torch.tensor([0, 1]))
    assert ids.tolist() == [[3] * 8] * 2
    assert not mask.any()
