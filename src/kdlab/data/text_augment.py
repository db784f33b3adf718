"""Augmentation of token ids, one batch at a time, on the batch's device.

Tang et al. Distilling Task-Specific Knowledge from BERT into Simple Neural Networks. arXiv:1903.12136, 2019:

    masking:          each word becomes [MASK] with the probability `masking` (published: 0.1)
    n-gram sampling:  with the probability `ngram` (published: 0.25) a text shrinks to n of its words in a row, n from 1
                      to 5, all equally likely

Their third, a word for another of the same part of speech, would need a tagger; TinyBERT's (Jiao et al. Findings of
EMNLP 2020), a word for a near one, embeddings. Every random number is a counter hash of (seed, index, view).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlab.data.counter_rng import AUGMENT, uniform

# The columns of the random numbers of a sample; WORDS seeds further ones, one for each of its words.
SHORTENED, COUNT, FIRST, WORDS = range(4)

LONGEST = 5
"""Words of the longest n-gram."""


class TextAugment(nn.Module):
    """Turns padded ids and their mask into a network's input.

    Args:
        masked: the id that stands for a masked word; needed where `masking` is above 0.
        padding: the id of empty places.
        special: [V] bool, ids that stand for no text: they are never masked or left out.
        continues: [V] bool, ids that belong to the word of the token before.
        masking: the share of words that are masked.
        ngram: the share of texts that shrink to a few words.
    """

    special: Tensor
    continues: Tensor
    pure = True
    soft = False

    def __init__(
        self, masked: int, padding: int, special: Tensor, continues: Tensor,
        *, masking: float = 0.0, ngram: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.masked, self.padding = masked, padding
        self.masking, self.ngram = masking, ngram
        self.register_buffer("special", special)
        self.register_buffer("continues", continues)

    def draw(self, seed: int, index: Tensor, view: Tensor) -> Tensor:
        """The random numbers [B, n] in [0, 1) for the samples `index` [B] in their `view` [B]."""
        return uniform(seed, index, view, AUGMENT, 4 if self.masking or self.ngram else 0)

    def forward(self, inputs: tuple[Tensor, Tensor], target: Tensor, draws: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """`{"input_ids", "attention_mask"}` [B, L] int64 and the targets as they are.

        Args:
            inputs: ids and mask [B, L], as `Tokens.padded` makes them.
            draws: what `draw` returned for these samples.
        """
        ids, mask = inputs
        if self.masking or self.ngram:
            text = mask.bool() & ~self.special[ids]
            # Numbered from 1; the first token of a text starts a word, whatever it is.
            word = (text & ~(self.continues[ids] & functional.pad(text, (1, -1)))).cumsum(1)
            if self.masking:
                seeds = (draws[:, WORDS] * 2**24).long()
                chance = uniform(0, seeds, torch.zeros_like(seeds), AUGMENT, ids.shape[1] + 1).gather(1, word)
                ids = torch.where(text & (chance < self.masking), self.masked, ids)
            if self.ngram:
                ids, mask = self._shortened(ids, mask, text, word, draws)
        return {"input_ids": ids, "attention_mask": mask}, target

    def _shortened(self, ids: Tensor, mask: Tensor, text: Tensor, word: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        words = word[:, -1]
        count = torch.minimum((draws[:, COUNT] * LONGEST).long() + 1, words)
        first = (draws[:, FIRST] * (words - count + 1)).long()
        place = word - 1 - first[:, None]
        kept = ~text | ((place >= 0) & (place < count[:, None])) | (draws[:, SHORTENED] >= self.ngram)[:, None]
        kept &= mask.bool()
        # What stays moves to the left, in its order.
        order = (~kept).long().argsort(dim=1, stable=True)
        kept = kept.gather(1, order)
        return torch.where(kept, ids.gather(1, order), self.padding), kept.long()
