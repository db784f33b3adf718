"""A learning-rate schedule of a phase, from its settings. Without Lightning, so that the preflight can try it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.config.instantiate import build


def make_scheduler(
    settings: Mapping[str, Any],
    optimizer: Optimizer,
    epochs: int,
    steps: int,
    allow: Sequence[str],
    key: str = "scheduler",
) -> tuple[LRScheduler, str]:
    """A learning-rate schedule; the words `epochs` and `steps` in its settings stand for those of the phase.

    `steps/4` is a quarter of them, rounded up; `lr` is the optimizer's rate.

    Returns:
        The schedule, and whether it moves every `epoch` or every `step`.
    """
    words = {"epochs": epochs, "steps": steps}

    def meant(value: Any) -> Any:
        if value == "lr":
            return optimizer.defaults["lr"]
        word, _, parts = value.partition("/") if isinstance(value, str) else ("", "", "")
        return max(1, ceil(words[word] / int(parts or 1))) if word in words else value

    own = {key: meant(value) for key, value in settings.items()}
    interval = str(own.pop("interval", "epoch"))
    return build(own, LRScheduler, key, allow=allow, optimizer=optimizer), interval
