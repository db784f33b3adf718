"""dlb: half of each batch repeats the last batch, taught by the student's logits of that time.

Shen et al. Self-Distillation from the Last Mini-Batch for Consistency Regularization. CVPR 2022, equations 3 and 4.

    L = CE over both halves + α T² KL(softmax(z_{t−1} / T) ‖ softmax(z_t / T)) over the half that is repeated

The loader's batch is the new half, so a step costs twice a plain one; with `trainer.batch_size=32` its
step has 64 samples. As in the authors' code (Meta-knowledge-Lab/DLB dlb.py:75-95) the repeated half is another draw of
the augmentation, and each half is its own pass, with its own batch statistics. Where the halves differ in size,
at the end of an epoch, each is weighted by its samples. The very first batch has no repeated half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdlab.core.distributed import gathered, own_share, padded
from kdlab.core.knowledge import Batch, Input, Knowledge, Lesson, Progress
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.networks.teacher import Observed

NAMED = "input_"
"""Before the names of inputs that are several tensors."""


class DLB(Mode):
    """One network as two learners: on the new half with the labels, on the repeated one also with its past logits.

    Args:
        cast: the networks of the run.
        view: of `data.views`, for the repeated half, `again` for another draw; None: unchanged.
    """

    wants_teacher = False
    wants_row_per_sample = True
    target: Tensor
    index: Tensor
    logits: Tensor

    def __init__(self, cast: Cast, view: str | None = None) -> None:
        super().__init__(cast.learners())
        self._view = view
        self._new: list[Batch] = []  # of the current step, between its parts
        self._parts = 1  # that the last batch was computed in
        for name in (*_flat(cast.batch["input"]), "target", "index", "logits"):
            self.register_buffer(name, torch.empty(0))

    @property
    def shows(self) -> tuple[str, ...]:
        return () if self._view is None else (self._view,)

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (Edge(1, 0, "repeated-past"),)

    def learner(self, edge: Edge) -> Observed:
        return self.observed[0]

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        target, index = batch["target"], batch["index"]
        learner = self.observed[0](batch)
        if not len(self.logits):
            nothing = learner.logits.new_zeros(1, len(learner.logits))
            return [
                Lesson(learner, (), target, index),
                Lesson(learner, (Knowledge(learner.logits.detach(), rows=learner.rows),), target, index, nothing, 0.0),
            ]
        before = self._before()
        again = self.observed[0](before)
        past = Knowledge(before["logits"], rows=again.rows)
        new, old = len(index), len(before["index"])
        # The objective divides by the new half's rows.
        weight = None if new == old else past.logits.new_full((1, old), new / old)
        # The mean over each half by its size: where all samples have labels, the mean over both.
        return [
            Lesson(learner, (), target, index, task=new / (new + old)),
            Lesson(again, (past,), before["target"], before["index"], weight, old / (new + old), whole=self.target),
        ]

    def _before(self) -> Batch:
        """This rank's share of the last batch, and of that the part matching the current one."""
        shared = {name: own_share(rows) for name, rows in self.named_buffers(recurse=False)}
        start, stop = (round((len(self._new) + end) * len(shared["index"]) / self._parts) for end in (0, 1))
        rows = {name: rows[start:stop] for name, rows in shared.items()}
        named = {name.removeprefix(NAMED): rows[name] for name in rows if name.startswith(NAMED)}
        return {**rows, "input": named or rows["input"]}

    def forward(self, batch: Batch, progress: Progress) -> list[Lesson]:
        lessons = super().forward(batch, progress)
        shown = batch if self._view is None else batch["views"][self._view]
        logits = lessons[0].learner.logits.detach()
        self._new.append({**_flat(shown["input"]), **{name: shown[name] for name in ("target", "index")},
                          "logits": logits})  # fmt: skip
        return lessons

    def after_step(self, progress: Progress) -> None:
        """The whole batch, of all parts, becomes the last one."""
        for name in self._buffers:
            rows = torch.cat([part[name] for part in self._new])
            setattr(self, name, gathered(padded(rows) if name.startswith(NAMED) else rows))
        self._parts = len(self._new)
        self._new.clear()

    def get_extra_state(self) -> dict[str, int]:
        """How many parts the last batch was computed in."""
        return {"parts": self._parts}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self._parts = state["parts"]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # The saved batch decides the size, even of none.
        for name in self._buffers:
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _flat(input: Input) -> dict[str, Tensor]:
    """An input as tensors by the names of their buffers."""
    return {"input": input} if isinstance(input, Tensor) else {f"{NAMED}{name}": input[name] for name in input}
