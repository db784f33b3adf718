"""one: branches on a shared trunk; a gate mixes them into the teacher; all learn from the labels.

Lan, Zhu, Gong. Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018, equations 3 to 7.

    L = Σ_i [ CE(p_i, y) + T² KL(p_e ‖ p_i) ] + CE(p_e, y),   z_e = Σ g_i z_i

The KL's weight is ramped up by exp(−5 (1 − e / E)²) in epoch e of the first E, 80 of 300 in the authors' code; E is a
share of the epochs here, as 80 epochs of a run of 30 would leave the KL at 0.13 of its weight to the end.

Any network is a branch: the trunk is what runs up to its second-to-last stage. A step costs the trunk
once and the rest of the network once per branch; compiled networks run whole. From there on every branch is the
student with its own weights, so one of them is kept, or the gated ensemble. Feature and relation heads read each other
branch separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Example, Fields, Knowledge, Lesson, Positions, Progress, positions
from kdlab.models.branches import Branches
from kdlab.modes._peers import TaughtTogether
from kdlab.modes.mode import Cast, Edge, union
from kdlab.networks.split import split


class ONE(TaughtTogether):
    """Branches of one network, and their gate.

    Args:
        cast: the networks of the run.
        branches: how many, including the student's own.
    """

    wants_row_per_sample = True

    def __init__(self, cast: Cast, branches: int) -> None:
        if branches < 2:
            raise UsageError(f"mode.branches={branches}: expected 2 or more, such as 3")
        super().__init__(*(cast.learners(place) for place in range(branches)))
        student = self.observed[0]
        self._stages = len(student.taps.stages)
        if self._stages < 2:
            raise UsageError(f"mode=one needs a network of two stages or more, but {student.name} has {self._stages}")
        tap = student.taps.stages[-2]
        student.listen(Fields(stages=(-2,)))
        stage = student.example(cast.batch).knowledge.stage(-2)
        student.close()
        self._settings: dict[str, Any] = {
            "shared": list(split(student.network, cast.batch["input"], tap).before),
            "tap": tap,
            "width": stage.shape[1 if stage.ndim == 4 else -1],
        }
        branched = Branches([branch.network for branch in self.observed], **self._settings)
        self._ensemble, self.gate = (branched,), branched.gate
        self._each = branched.each

    def described_ensemble(self, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return {
            "_target_": "kdlab.models.branches.Branches", "networks": self.members(networks), **self._settings
        }  # fmt: skip

    def offers(self, edge: Edge) -> tuple[Fields, Fields]:
        """Without blocks and attention: those of the trunk run for the student alone."""
        learner, teacher = (replace(fields, blocks=(), attention=()) for fields in super().offers(edge))
        return learner, teacher

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        """The student is hooked for the trunk on behalf of all, a branch for what comes after it."""
        student = [Fields(stages=(-2,))]
        for branch in self.observed:
            ours = [ours for edge, (ours, _) in asked.items() if self.learner(edge) is branch]
            theirs = [theirs for edge, (_, theirs) in asked.items() if self.source(edge) is branch]
            fields = union((*ours, *theirs))
            student.append(fields if branch is self.observed[0] else self._narrowed(fields, trunk=True))
            branch.listen(self._narrowed(fields, trunk=False))
        self.observed[0].listen(union(student))

    def examples(self, edge: Edge, batch: Batch) -> tuple[Example, Example]:
        student = self.observed[0].example(batch).knowledge
        ours, theirs = (
            replace(example, knowledge=self._joined(example.knowledge, student))
            for example in super().examples(edge, batch)
        )
        return ours, theirs

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        target, index = batch["target"], batch["index"]
        student, *others = self._each([partial(branch, batch) for branch in self.observed])
        branches = [student, *(self._joined(branch, student) for branch in others)]
        logits = self.gate(student.stage(-2), [branch.logits for branch in branches], student.valid)
        mixed = Knowledge(logits, rows=student.rows)
        detached = [branch.detach() for branch in branches]
        return [
            *(
                Lesson(own, (*(detached[other] for other in self.others(place)), mixed.detach()), target, index)
                for place, own in enumerate(branches)
            ),
            Lesson(mixed, (), target, index),
        ]

    def _narrowed(self, fields: Fields, *, trunk: bool) -> Fields:
        def chosen(places: Positions, offered: Positions) -> tuple[int, ...]:
            found = positions(offered if places == "all" else places, self._stages)
            return tuple(place for place in found if (place < self._stages - 1) == trunk)

        offers = self.observed[0].offers
        stages, before = chosen(fields.stages, offers.stages), chosen(fields.preactivations, offers.preactivations)
        return replace(fields, stages=stages, preactivations=before)

    def _joined(self, branch: Knowledge, student: Knowledge) -> Knowledge:
        """A branch's knowledge, with the trunk's, which only the student has."""
        if not branch.stages:
            return branch
        return replace(
            branch,
            stages=(*student.stages[:-1], branch.stages[-1]),
            preactivations=(*student.preactivations[:-1], branch.preactivations[-1]),
        )
