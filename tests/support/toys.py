"""Networks, heads, a mode and a task of no use but to prove the contracts: between them they use every field."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress
from kdlab.heads.head import Head, ResponseHead
from kdlab.modes.mode import Mode
from kdlab.tasks.task import Task


class Net(nn.Sequential):
    """Two convolutional stages, dropout where asked, and a classifier."""

    def __init__(self, classes: int = 10, channels: int = 1, width: float = 1.0, dropout: float = 0.0) -> None:
        wide = max(1, round(8 * width))
        super().__init__()
        self.stage1 = _block(channels, wide, 1)
        self.stage2 = _block(wide, 2 * wide, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * wide, classes)


def _block(source: int, target: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, target, 3, stride, 1, bias=False), nn.BatchNorm2d(target), nn.ReLU(inplace=True)
    )


class Everything(Head):
    """Reads every field that there is, and remembers what it saw."""

    kind = "feature"
    paper = "none"
    compares = "everything"
    seen: ClassVar[dict[str, object]] = {}

    def __init__(self, views: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.views = tuple(views)

    def needs(self) -> Needs:
        whole = Fields(embedding=True, stages="all", preactivations=(-1,), classifier=True, normalisations=True)
        return Needs(learner=whole, teacher=whole, labels=True, index=True, views=self.views)

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.adapter = nn.Linear(learner.knowledge.vector().shape[1], teacher.knowledge.vector().shape[1])
        self.seen |= {
            "classifiers": (learner.classifier, teacher.classifier),
            "normalisations": (learner.normalisations, teacher.normalisations),
            "layers": (learner.layers, teacher.layers),
            "labels": context.labels,
            "classes": context.classes,
            "samples": context.samples,
        }

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        self.seen |= {"lesson": lesson, "progress": progress, "learner": learner, "teacher": teacher}
        loss = (self.adapter(learner.vector()) - teacher.vector()).square().mean()
        for ours, theirs in zip(learner.stages, teacher.stages, strict=True):
            assert ours is not None
            assert theirs is not None
            loss = loss + (ours.mean() - theirs.mean()).square()
        return loss + (learner.preactivation(-1).mean() - teacher.preactivation(-1).mean()).square()


class Rows(ResponseHead):
    """One value per row: the squared distance of logits; soft targets are read at this head's own temperature."""

    paper = "none"
    compares = "logits"

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return (learner.logits.log_softmax(1) - target).square().sum(1)


class Plain(Head):
    """Asks for nothing but logits."""

    kind = "relation"
    paper = "none"
    compares = "nothing"

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        assert learner.embedding is None
        assert not any(stage is not None for stage in learner.stages)
        assert lesson.target is None
        return (learner.logits.mean() - teacher.logits.mean()).square()


class Prepared(Head):
    """Has a part of its own that is fitted to the teacher before training."""

    kind = "feature"
    paper = "none"
    compares = "embeddings"

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        width = teacher.knowledge.vector().shape[1]
        self.code = nn.Linear(width, width)
        self.adapter = nn.Linear(learner.knowledge.vector().shape[1], width)

    def prepared(self) -> tuple[nn.Module, ...]:
        return (self.code,)

    def prepare(self, teacher: Knowledge) -> Tensor:
        return (self.code(teacher.vector()) - teacher.vector()).square().mean()

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        with torch.no_grad():
            code = self.code(teacher.vector())
        return (self.adapter(learner.vector()) - code).square().mean()


class Graft(Head):
    """Puts a layer between the student's embedding and a frozen copy of its teacher's classifier."""

    kind = "feature"
    paper = "none"
    compares = "embeddings"
    grafts = True

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def graft(self, student: nn.Module, learner: Example, teacher: Example) -> nn.Module:
        assert teacher.classifier is not None
        grafted = Grafted(student, learner.knowledge.vector().shape[1], teacher.classifier.in_features,
                          teacher.classifier.out_features)  # fmt: skip
        grafted.classifier.load_state_dict(teacher.classifier.state_dict())
        return grafted

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return (learner.vector() - teacher.vector()).square().mean()


class Grafted(nn.Module):
    """A student with a bridge to another network's classifier."""

    def __init__(self, student: nn.Module, width: int, theirs: int, classes: int) -> None:
        super().__init__()
        self.settings = {"width": width, "theirs": theirs, "classes": classes}
        self.student = student
        self.student.classifier = nn.Identity()
        self.bridge = nn.Linear(width, theirs)
        self.classifier = nn.Linear(theirs, classes).requires_grad_(False)

    def config(self, student: dict[str, object]) -> dict[str, object]:
        return {"_target_": "support.toys.Grafted", "student": student, **self.settings}

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(self.bridge(self.student(input)))


class Regression(Task):
    """Real-valued targets [N, C]; a row of NaN has none."""

    primary = "mse"
    directions: ClassVar = {"mse": "min", "distance": "min"}
    titles: ClassVar = {"mse": "mean squared error", "distance": "distance to teacher"}

    def __init__(self, classes: int = 10) -> None:
        self.classes = classes

    def _values(self, target: Tensor) -> Tensor:
        return target if target.ndim == 2 else nn.functional.one_hot(target, self.classes).float()

    def labelled(self, target: Tensor) -> Tensor:
        return ~self._values(target).isnan().any(1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        values = self._values(target)
        return (logits - values.nan_to_num()).square().mean(1) * self.labelled(target)

    def metrics(self) -> MetricCollection:
        class SquaredDistance(MeanSquaredError):  # noqa: N818
            def update(inner, logits: Tensor, target: Tensor) -> None:  # noqa: N805
                super().update(logits, self._values(target))

        return MetricCollection({"mse": SquaredDistance()})

    def comparisons(self) -> MetricCollection:
        return MetricCollection({"distance": MeanSquaredError()})


class Silent(Mode):
    """A mode whose edge has a teacher that is no network: it has logits and nothing else."""

    wants_teacher = False

    def __init__(self, cast) -> None:
        from kdlab.modes.mode import Edge

        super().__init__(cast.learners())
        self._edge = Edge(0, 0, "silent")

    @property
    def edges(self):
        return (self._edge,)

    def lessons(self, batch, progress):
        learner = self.observed[0](batch)
        teacher = Knowledge(torch.zeros_like(learner.logits))
        return [Lesson(learner, (teacher,), batch["target"], batch["index"])]


class Plainest(nn.Sequential):
    """One convolution and a classifier, without normalisation: every sample counts for itself."""

    def __init__(self, classes: int = 10, channels: int = 1, width: float = 1.0) -> None:
        wide = max(1, round(8 * width))
        super().__init__()
        self.conv = nn.Conv2d(channels, wide, 3, 2, 1)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(wide * 16, classes)
