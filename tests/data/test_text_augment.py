"""Augmentation of texts: the shares it promises, whole words, and one result for each (seed, index, view)."""

from __future__ import annotations

import torch

from kdlab.data.text_augment import TextAugment
from kdlab.data.tokens import tokens

PAD, CLS, SEP, MASK = range(4)
# Words are 10 to 19; 20 to 29 continue the word before.
SPECIAL = torch.arange(30) < 4
CONTINUES = torch.arange(30) >= 20
ROW = [CLS, 10, 20, 11, 12, 21, 22, 13, 14, 15, SEP]
"""Six words: 10 20, 11, 12 21 22, 13, 14, 15."""


def augmented(
    augment: TextAugment, rows: list[list[int]], index: list[int], seed: int = 0, view: int = 0
) -> list[list[int]]:
    """The ids of each row after augmentation, without padding."""
    inputs = tokens(rows, PAD).padded(torch.arange(len(rows)))
    place = torch.tensor(index)
    target = torch.arange(len(rows))
    made, same = augment(inputs, target, augment.draw(seed, place, torch.full_like(place, view)))
    assert same is target
    ids, mask = made["input_ids"], made["attention_mask"]
    assert ids.shape == mask.shape == inputs[0].shape
    assert (ids[mask == 0] == PAD).all()
    assert (mask.diff(dim=1) <= 0).all(), "padding is on the right"
    return [row[valid.bool()].tolist() for row, valid in zip(ids, mask, strict=True)]


def make(**settings: float) -> TextAugment:
    return TextAugment(MASK, PAD, SPECIAL, CONTINUES, **settings)


def test_nothing_changes_where_nothing_is_asked() -> None:
    rows = [ROW, [CLS, 10, SEP]]
    assert augmented(make(), rows, [0, 1]) == rows
    assert make().draw(0, torch.arange(2), torch.zeros(2, dtype=torch.long)).shape == (2, 0)


def test_whole_words_are_masked_at_the_given_rate_and_special_tokens_never() -> None:
    words = {(1, 2), (3,), (4, 5, 6), (7,), (8,), (9,)}
    hits = dict.fromkeys(words, 0)
    for row in augmented(make(masking=0.3), [ROW] * 4000, list(range(4000))):
        assert (row[0], row[-1], len(row)) == (CLS, SEP, len(ROW))
        for word in words:
            masked = {row[place] == MASK for place in word}
            assert len(masked) == 1, "all of a word, or nothing"
            hits[word] += masked.pop()
        assert all(now in (before, MASK) for now, before in zip(row, ROW, strict=True))
    # 4 standard errors of a share of 0.3 among 4000
    assert all(abs(count / 4000 - 0.3) < 0.03 for count in hits.values())


def test_n_grams_are_one_to_five_words_in_a_row() -> None:
    words = [[10, 20], [11], [12, 21, 22], [13], [14], [15]]
    possible = {
        (n, repr([token for word in words[a : a + n] for token in word])) for n in range(1, 6) for a in range(7 - n)
    }
    sizes = dict.fromkeys(range(1, 6), 0)
    lengths = {text: n for n, text in possible}
    whole = 0
    for row in augmented(make(ngram=0.5), [ROW] * 4000, list(range(4000))):
        assert (row[0], row[-1]) == (CLS, SEP)
        if row == ROW:
            whole += 1
        else:
            sizes[lengths[repr(row[1:-1])]] += 1
    assert abs(whole / 4000 - 0.5) < 0.035
    assert all(abs(count / (4000 - whole) - 0.2) < 0.04 for count in sizes.values())


def test_a_short_text_keeps_all_its_words_at_most() -> None:
    for row in augmented(make(ngram=1.0), [[CLS, 10, 20, SEP], [CLS, SEP], [10]] * 50, list(range(150))):
        assert row in ([CLS, 10, 20, SEP], [CLS, SEP], [10])


def test_a_sample_looks_the_same_in_any_batch_and_another_in_the_next_view() -> None:
    augment = make(masking=0.4, ngram=0.4)
    rows = [[*ROW[: 4 + place % 6], SEP] for place in range(40)]
    whole = augmented(augment, rows, list(range(40)))
    for start in (0, 7, 33):
        assert (
            augmented(augment, rows[start : start + 7], list(range(40))[start : start + 7]) == whole[start : start + 7]
        )
    assert augmented(augment, rows, list(range(40)), view=1) != whole
    assert augmented(augment, rows, list(range(40)), seed=1) != whole
    assert augment.pure


def test_a_continuation_at_the_start_is_a_word() -> None:
    seen = {tuple(row) for row in augmented(make(masking=0.5), [[CLS, 20, 21, 10, SEP]] * 200, list(range(200)))}
    assert seen == {(CLS, *start, end, SEP) for start in ((20, 21), (MASK, MASK)) for end in (10, MASK)}


def test_a_text_looks_the_same_however_far_it_is_padded() -> None:
    # Without marks, and beginning with a continuation.
    rows = torch.tensor([[20, 10, 11, 21, 12, 13, 14, 22]] * 200)
    augment = make(masking=0.4, ngram=0.4)
    draws = augment.draw(0, torch.arange(200), torch.zeros(200, dtype=torch.long))
    made = []
    for length in (8, 16):
        ids = torch.nn.functional.pad(rows, (0, length - 8), value=PAD)
        mask = (torch.arange(length) < 8).long().expand(200, length)
        made.append(augment((ids, mask), torch.zeros(200), draws)[0])
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(made[0][name], made[1][name][:, :8])
        assert not made[1][name][:, 8:].any()
