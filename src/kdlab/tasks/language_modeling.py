"""Language modelling: the next token at every position."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.core.reading import first_of, logits_of
from kdlab.tasks.classification import Classification

if TYPE_CHECKING:  # torchmetrics takes seconds to import; a typo should be reported before
    from torchmetrics import MetricCollection


class LanguageModeling(Classification):
    """One row for each token: logits [B, L, V], targets [B, L] the next tokens, already shifted; -1 does not count.

    A batch without an `attention_mask` has a token at every position; padding makes no rows. Where a batch has `valid`
    [B, L] bool, only these positions make rows.
    """

    primary = "nats_per_token"
    row_per_sample = False
    directions: ClassVar = {
        "nats_per_token": "min",
        "perplexity": "min",
        "bits_per_byte": "min",
        "agreement": "max",
        "teacher_kl": "min",
    }
    titles: ClassVar = {
        "nats_per_token": "cross-entropy, nats per token",
        "perplexity": "perplexity",
        "bits_per_byte": "bits per byte",
        "agreement": "agreement with teacher",
        "teacher_kl": "KL to teacher",
    }

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary)

    def read(self, output: object, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [N, V], the sample of each).

        Raises:
            UsageError: where the network did not return such logits.
        """
        logits, shape = logits_of(output), first_of(batch["input"]).shape[:2]
        if logits.ndim != 3 or logits.shape[:2] != shape:
            raise UsageError(
                f"the network returns logits {list(logits.shape)}; expected [{', '.join(map(str, shape))}, V], one row "
                "per token"
            )
        samples = torch.arange(shape[0], device=logits.device)[:, None].expand(shape)
        return _by_row(logits, batch), _by_row(samples, batch)

    def laid_out(self, values: Tensor, batch: Batch) -> Tensor:
        return _by_row(values, batch)

    def targets(self, batch: Batch) -> Tensor:
        return _by_row(batch["target"], batch)

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        return {"bytes": batch["bytes"]} if "bytes" in batch else {}

    def measured(self) -> tuple[str, ...]:
        return ("nats_per_token", "perplexity", "bits_per_byte")

    def metrics(self) -> MetricCollection:
        from torchmetrics import MetricCollection

        from kdlab.tasks.metrics import TokenLoss

        return MetricCollection({"tokens": TokenLoss(self.loss, self.labelled)}, compute_groups=False)


def _by_row(values: Tensor, batch: Batch) -> Tensor:
    # A boolean mask would wait for the device to count, and copy the logits; without padding a view will do.
    mask = batch.get("valid")
    if mask is None and isinstance(batch["input"], dict):
        mask = batch["input"].get("attention_mask")
    return values.flatten(0, 1) if mask is None else values[mask.bool()]
