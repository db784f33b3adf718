"""A distillation head: a module that compares a learner with a teacher across one edge.

A method is one file: the equation in its docstring, the pure function that is that equation, and a thin
head that calls it. See `response/kd.py` for the shortest, `feature/fitnet.py` for one with learned parts.
"""

from __future__ import annotations

from math import inf
from typing import ClassVar, Literal

from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Kind, Knowledge, Lesson, Needs, Progress
from kdlab.core.soft_targets import soft_logits, soft_targets, standardize


class Head(nn.Module):
    """Compares one learner with one teacher; every edge of a mode has its own instance.

    Class attributes describe the method in tables and messages: `kind` as in the survey of Gou et al.
    (2021), the `paper` (authors, title, venue, year), a `link` to it and what it `compares`, in a few words.
    `outputs`: the kinds of networks' outputs that it makes sense for. `rowwise`: a row's value depends on that row
    of both networks alone, on its label and on nothing drawn at random, so that rows can be compared in parts.
    """

    kind: ClassVar[Literal["response", "feature", "relation"]]
    paper: ClassVar[str]
    link: ClassVar[str]
    compares: ClassVar[str]
    grafts: ClassVar[bool] = False
    rowwise: ClassVar[bool] = False
    outputs: ClassVar[tuple[Kind, ...]] = ("categorical", "real")

    def needs(self) -> Needs:
        """What this head reads; it receives exactly that. Default: the two networks' logits."""
        return Needs()

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        """Builds adapters and memories from the shapes of a dry run, once, before training.

        Raises:
            ValueError: where the two networks cannot be compared, with both shapes and both layers named.
        """

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        """The distillation loss: [N], one value per row, for response heads; a scalar for others."""
        raise NotImplementedError

    def prepared(self) -> tuple[nn.Module, ...]:
        """The parts that `prepare` fits before training; they are frozen afterwards."""
        return ()

    def prepare(self, teacher: Knowledge) -> Tensor:
        """The loss, a scalar, of a phase before training that fits this head to the teacher alone."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to prepare")

    def graft(self, student: nn.Module, learner: Example, teacher: Example) -> nn.Module:
        """The student with added parts of the method; called before any network is observed.

        The result replaces the student: it is trained, counted, saved and exported. It must have
        `config(student) -> dict`, the plain config that rebuilds it around a student's config.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to graft")


class ResponseHead(Head):
    """A head that compares predictions row by row, [N, C] against [N, C].

    `standardize` brings each row of logits to zero mean and unit deviation on both sides first: logit
    standardisation, Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, equation 9.

    Args:
        temperatures: that the head divides logits by; refused where not above 0.
        standardize: see above.
    """

    kind = "response"
    outputs: ClassVar[tuple[Kind, ...]] = ("categorical",)

    def __init__(self, *temperatures: float, standardize: bool = False) -> None:
        super().__init__()
        self.standardize = standardize
        for temperature in temperatures:
            if not 0 < temperature < inf:
                raise ValueError(f"temperature={temperature}: expected a number above 0")

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        """Refuses networks with different numbers of outputs."""
        ours, theirs = learner.knowledge.logits.shape[1], teacher.knowledge.logits.shape[1]
        if ours != theirs:
            raise ValueError(f"{learner.name} has {ours} outputs and {teacher.name} {theirs}: expected the same")

    def scale(self, logits: Tensor) -> Tensor:
        """Logits [N, C] as this head reads them: standardised where asked."""
        return standardize(logits) if self.standardize else logits

    def teacher_logits(self, teacher: Knowledge) -> Tensor:
        """The teacher's one set of logits [N, C] for heads that need logits, not probabilities."""
        return self.scale(soft_logits(teacher))

    def teacher_log_probabilities(self, teacher: Knowledge, temperature: float | Tensor) -> Tensor:
        """The teacher's log-probabilities [N, C] at this head's own temperature, standardised where asked."""
        return soft_targets(teacher, temperature, self.scale)
