"""A toy sequence tagger: named inputs of two kinds, a row per token, padding that must not count."""

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch
from kdlab.core.reading import logits_of
from kdlab.tasks.classification import Classification

WORDS, TAGS, LENGTH = 11, 5, 6


class Tagger(nn.Module):
    """Tokens and their mask [B, L], by name, to a mapping with logits [B, L, TAGS]; padding changes nothing."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.classifier = nn.Linear(width, TAGS)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.body(self.words(tokens) * mask[..., None]))}


class Tagging(Classification):
    """One row for each token that is not padding; targets [B, L]."""

    row_per_sample = False

    def read(self, output: object, batch: Batch) -> tuple[Tensor, Tensor]:
        valid = batch["input"]["mask"].bool()
        return logits_of(output)[valid], valid.nonzero()[:, 0]

    def laid_out(self, values: Tensor, batch: Batch) -> Tensor:
        return values[batch["input"]["mask"].bool()]

    def targets(self, batch: Batch) -> Tensor:
        return batch["target"][batch["input"]["mask"].bool()]


def tagged(lengths: list[int], seed: int = 0) -> Batch:
    """A batch of sentences of the given lengths; what stands in the padding is noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), LENGTH)
    mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
    return {
        "input": {"tokens": torch.randint(0, WORDS, shape, generator=generator), "mask": mask},
        "target": torch.randint(0, TAGS, shape, generator=generator),
        "index": torch.arange(len(lengths)),
        "view": torch.zeros(len(lengths), dtype=torch.long),
    }
