"""byot: a network with an exit after each stage; the deepest, its original output, teaches the shallow ones.

Zhang et al. Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation.
ICCV 2019, equations 2 to 5.

    L = CE(p_C, y) + Σ over exits i of (1 − α) CE(p_i, y) + α KL(p_C ‖ p_i) + λ ‖F_i − F_C‖²

α is 0.3 at T 3, with soft targets that lack the T² of `kd`, so that the weight of `kd` is 0.3 / 9. The hint is the
equation's squared distance, as a mean over the map and through a regressor: fitnet. The authors' later code
(ArchipLab-LinfengZhang/pytorch-self-distillation-final train.py:162, at eda2f2b) has 0.03 times the norm, not squared,
of the whole batch's difference in embeddings: a root over samples, which does not add up over ranks or parts of a
batch, and grows with the batch relative to the other, averaged terms.

An exit is a bottleneck that brings the stage's map to the channels and size of the last one, a pool and a
classifier. All exits read the stages of one forward pass, found on any network by its taps. They serve
training alone: the kept student is the original network, or one exit with the part of the network that it needs
(`mode.kept=exit1`, counted from shallow), whose size and latency are then reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdlab.config.instantiate import network_arguments
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Example, Fields, Knowledge, Lesson, Positions, Progress, positions
from kdlab.models.exits import Exit, UpToExit
from kdlab.modes.mode import Cast, Edge, Mode, union
from kdlab.networks.split import shallow_copy, split
from kdlab.networks.teacher import Observed
from kdlab.networks.trace import dry_run


class ExitOf(Observed):
    """An exit as a learner: the stages of its network up to the one that it reads, then its own map."""

    def __init__(self, name: str, body: Observed, stage: int, exit: Exit) -> None:
        self.name, self.network, self.taps = name, exit, body.taps
        self.body, self.stage, self.exit = body, stage, exit
        self._fields = Fields()

    @property
    def offers(self) -> Fields:
        body = self.body.offers
        before = positions(body.preactivations, len(self.taps.stages))
        shared = tuple(place for place in before if place <= self.stage)
        return Fields(
            embedding=True,
            stages="all",
            preactivations="all" if len(shared) == self.stage + 1 else (*shared, self.stage + 1),
            classifier=True,
            normalisations=True,
            final_map=True,
        )

    def listen(self, fields: Fields) -> None:
        """Stores the fields; the network itself is hooked, for `of_body`."""
        self._fields = fields

    def of_body(self, asked: Fields) -> Fields:
        """What must be read from the network where `asked` is read from this exit."""

        def shared(places: Positions, offered: Positions) -> tuple[int, ...]:
            count = len(self.taps.stages) if places == "all" else self.stage + 2
            found = positions(offered if places == "all" else places, count)
            return tuple(place for place in found if place <= self.stage)

        stages = shared(asked.stages, self.body.offers.stages)
        before = shared(asked.preactivations, self.body.offers.preactivations)
        return Fields(stages=(*stages, self.stage), preactivations=before, normalisations=asked.normalisations)

    def of(self, body: Knowledge) -> Knowledge:
        """The exit's knowledge, from its network's."""
        own, last = self.exit.know(body.stage(self.stage), body.valid), self.stage + 1
        before = (*body.preactivations[:last], *own.preactivations)
        return replace(own, stages=(*body.stages[:last], *own.stages), preactivations=before, rows=body.rows)

    def __call__(self, batch: Batch) -> Knowledge:
        return self.of(self.body(batch))

    def example(self, batch: Batch) -> Example:
        body, last, input = self.body.example(batch), self.stage + 1, batch["input"]
        with dry_run(self.exit, input):
            knowledge = self.of(body.knowledge)
        norms = (*body.normalisations[:last], self.exit.normalisation) if self._fields.normalisations else ()
        layers = (*body.layers[:last], self.name)
        return Example(knowledge, self.exit.classifier, norms, layers, self.name, final_layer=self.name, input=input)


class BYOT(Mode):
    """One network, whose output teaches its exits.

    Args:
        cast: the networks of the run.
        exit_task: 1 − α, the weight of the labels at the exits; at the network's output it is 1.
    """

    wants_teacher = False
    wants_row_per_sample = True

    def __init__(self, cast: Cast, exit_task: float) -> None:
        student = cast.learners()
        super().__init__(student)
        self._exit_task = exit_task
        student.listen(Fields(stages="all" if student.offers.stages else ()))
        stages = student.example(cast.batch).knowledge.stages
        student.close()
        if len(stages) < 2:
            raise UsageError(f"mode=byot needs a network of two stages or more, but {student.name} has {len(stages)}")
        self._settings = [_exit(stage, stages[-1], cast.context.classes) for stage in stages[:-1]]
        exits = [Exit(**settings) for settings in self._settings]
        self.exits = nn.ModuleList(exits)
        self._learners = [ExitOf(f"exit{place + 1}", student, place, exit) for place, exit in enumerate(exits)]
        self._splits = [split(student.network, cast.batch["input"], tap) for tap in student.taps.stages[:-1]]
        # Not registered: their parts are.
        self._students = {
            learner.name: UpToExit(
                shallow_copy(student.network, parts.before), tap, parts.after, **settings, exit=learner.exit
            )
            for learner, parts, tap, settings in zip(
                self._learners, self._splits, student.taps.stages, self._settings, strict=False
            )
        }

    @property
    def edges(self) -> tuple[Edge, ...]:
        return tuple(Edge(place, 0, f"{exit.name}-student") for place, exit in enumerate(self._learners, start=1))

    def learner(self, edge: Edge) -> Observed:
        return self._learners[edge.learner - 1]

    def source(self, edge: Edge) -> Observed:
        return self.observed[0]

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        student = [theirs for _, theirs in asked.values()]
        for place, exit in enumerate(self._learners, start=1):
            ours = union(ours for edge, (ours, _) in asked.items() if edge.learner == place)
            exit.listen(ours)
            student.append(exit.of_body(ours))
        self.observed[0].listen(union(student))

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        student = self.observed[0](batch)
        deepest, target, index = student.detach(), batch["target"], batch["index"]
        return [
            Lesson(student, (), target, index),
            *(Lesson(exit.of(student), (deepest,), target, index, task=self._exit_task) for exit in self._learners),
        ]

    def students(self) -> dict[str, nn.Module]:
        return {**super().students(), **self._students}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        if student == "student":
            return networks[student]
        place = [exit.name for exit in self._learners].index(student)
        return {
            "_target_": "kdlab.models.exits.UpToExit",
            "network": network_arguments(networks["student"]),
            "tap": self.observed[0].taps.stages[place],
            "after": list(self._splits[place].after),
            **self._settings[place],
        }


def _exit(stage: Tensor | None, last: Tensor | None, classes: int) -> dict[str, Any]:
    assert stage is not None
    assert last is not None
    channels, target = (each.shape[1 if each.ndim == 4 else -1] for each in (stage, last))
    kernel = None
    if stage.ndim == 4:
        pairs = zip(stage.shape[2:], last.shape[2:] if last.ndim == 4 else stage.shape[2:], strict=True)
        kernel = [max(1, round(ours / theirs)) for ours, theirs in pairs]
    return {"source": channels, "target": target, "kernel": kernel, "classes": classes}
