"""simkd: the student's last map learns to be the teacher's, and the teacher's classifier is reused on it.

Chen et al. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022.

    L = mean (P(F_s) − F_t)², the only loss; the student predicts W_t · pool(P(F_s)) + b_t

F_t is the teacher's map before pooling, whose mean its classifier was trained on. F_s is the student's own, except
where a last convolution widens the map before it is pooled: MobileNetV2 and ShuffleNetV2 are read before it, at 160
and 464 channels. That is `feat_t[-2]` and `feat_s[-2]` of the authors' code (DefangChen/SimKD, helper/loops.py:151)
for all the pairs in it; of a ShuffleNetV2 or MobileNetV2 as teacher it would give a map that the classifier does not
read, and we take the one that it does. What the student runs after F_s is dropped with its classifier.

P, the projector, stays with the student and counts in its size: 1×1, 3×3 and 1×1 convolutions, each with BN and
ReLU, with `factor` times fewer channels inside than the teacher's map. A student's map that is larger than the
teacher's is average-pooled before P; where the teacher's is larger, it is pooled in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, final_map, final_name, layer_name, same_size, stage_map
from kdlab.networks.split import split
from kdlab.networks.trace import first_tensor, module_of


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps [B, D, H, W]; the larger is average-pooled. A scalar."""
    return mse_loss(*same_size(raised(projected), raised(teacher)))


class SimKDStudent(nn.Module):
    """A student whose last map goes through a projector to the teacher's frozen classifier.

    Args:
        student: the network that is grafted; it becomes part of this one, without its classifier.
        layer: the tap of its last map: `layer3`, a module's output, or `layer4:input`, its input.
        own_classifier: the name of its own classifier, now unused; None: there is none.
        idle: names of the other modules with weights that run after its map, also unused.
        size: height and width to which its map is pooled first; None: unchanged.
        source: channels of its map.
        target: channels of the teacher's map, which the classifier reads.
        factor: how many times fewer channels the projector has inside.
        classes: outputs of the teacher's classifier.
        bias: whether the teacher's classifier has one.
    """

    taps: dict[str, list[str]] | None = None
    """Where it is observed, as the graft sets it: the stages of the student, then the projector."""

    def __init__(
        self,
        student: nn.Module,
        *,
        layer: str,
        own_classifier: str | None,
        size: Sequence[int] | None,
        source: int,
        target: int,
        factor: int,
        classes: int,
        bias: bool,
        idle: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.settings = {
            "layer": layer,
            "own_classifier": own_classifier,
            "size": None if size is None else list(size),
            "source": source,
            "target": target,
            "factor": factor,
            "classes": classes,
            "bias": bias,
            "idle": list(idle),
        }
        for name in (own_classifier, *idle):
            if name is not None:
                student.set_submodule(name, nn.Identity())
        self.student = student
        self.resize = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(tuple(size))
        inside = max(1, target // factor)
        self.projector = nn.Sequential(
            *_unit(source, inside, kernel=1), *_unit(inside, inside, kernel=3), *_unit(inside, target, kernel=1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(target, classes, bias=bias).requires_grad_(False)

        # Bound methods rather than closures: a copy or a pickle of this network then stores into itself.
        self._features: Tensor | None = None
        module, before = module_of(student, layer)
        if before:
            module.register_forward_pre_hook(self._keep_input, with_kwargs=True)
        else:
            module.register_forward_hook(self._keep_output)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The student's inputs to logits [B, C]."""
        self.student(*inputs, **named)
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError(f"the student ran without its layer {self.settings['layer']}, which simkd reads")
        projected = self.projector(self.resize(as_map(features)))
        logits: Tensor = self.classifier(self.flatten(self.pool(projected)))
        return logits

    def config(self, student: dict[str, Any]) -> dict[str, Any]:
        """The plain config that rebuilds this network, without weights, around the config of its student."""
        return {"_target_": f"{__name__}.SimKDStudent", "student": student, **self.settings}

    def _keep_input(self, module: nn.Module, inputs: object, named: object) -> None:
        self._features = first_tensor((inputs, named))

    def _keep_output(self, module: nn.Module, inputs: object, output: object) -> None:
        self._features = first_tensor(output)


class SimKD(Head):
    """Grafts the teacher's classifier onto the student, and distils the map that it reads."""

    kind = "feature"
    paper = "Chen et al.: Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022"
    link = "https://arxiv.org/abs/2203.14001"
    compares = "the last map, projected; the teacher's classifier is reused"
    grafts = True

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def needs(self) -> Needs:
        return Needs(
            learner=Fields(stages=(-1,), classifier=True),
            teacher=Fields(final_map=True, classifier=True),
        )

    def graft(self, student: nn.Module, learner: Example, teacher: Example) -> SimKDStudent:
        (layer, ours), theirs = _source(learner), final_map(teacher)
        classifier = _reusable(learner, teacher)
        names = {module: name for name, module in student.named_modules()}
        own_classifier = names.get(learner.classifier) if learner.classifier is not None else None
        least = tuple(min(sides) for sides in zip(ours.shape[2:], theirs.shape[2:], strict=True))
        size = None if least == ours.shape[2:] else least
        grafted = SimKDStudent(
            deepcopy(student),
            layer=layer,
            own_classifier=own_classifier,
            size=size,
            source=ours.shape[1],
            target=theirs.shape[1],
            factor=self.factor,
            classes=classifier.out_features,
            bias=classifier.bias is not None,
            idle=_idle(student, learner, layer, own_classifier),
        )
        with torch.no_grad():
            grafted.classifier.weight.copy_(classifier.weight)
            if classifier.bias is not None:
                grafted.classifier.bias.copy_(classifier.bias)
        # The projected map is a further stage where it is smaller, else the student's last. Tokens are not maps.
        kept = () if learner.knowledge.stage(-1).ndim == 3 else learner.layers[: None if size else -1]
        grafted.taps = {"stages": [*(f"student.{name}" for name in kept), "projector"]}
        return grafted

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        ours, theirs = stage_map(learner, -1), final_map(teacher)
        if ours.shape[1] != theirs.shape[1]:
            raise ValueError(
                f"simkd compares the projected map: {layer_name(learner, -1)} gives {tuple(ours.shape)} "
                f"and {final_name(teacher)} {tuple(theirs.shape)}; let the last tap of the grafted student "
                "be `projector`"
            )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return simkd_loss(as_map(learner.stage(-1)), as_map(teacher.before_pooling()))


def _unit(source: int, target: int, *, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(source, target, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(target), nn.ReLU(inplace=True)


def _source(learner: Example) -> tuple[str, Tensor]:
    """The layer that the projector reads, and its map: the final one, or the last stage where that was widened."""
    stage, final = stage_map(learner, -1), learner.knowledge.final_map
    if final is None or learner.final_layer is None or as_map(final).shape != stage.shape:
        return learner.layers[-1], stage
    return learner.final_layer, as_map(final)


def _idle(student: nn.Module, learner: Example, layer: str, own_classifier: str | None) -> list[str]:
    """The modules with weights, other than the classifier, that run after a layer."""
    if learner.input is None:
        return []
    after = [name for name in split(student, learner.input, layer).after if name != own_classifier]
    return [name for name in after if next(student.get_submodule(name).parameters(), None) is not None]


def _reusable(learner: Example, teacher: Example) -> nn.Linear:
    """The teacher's classifier, checked to have the student's classes."""
    classifier, ours, theirs = teacher.classifier, learner.knowledge.logits, teacher.knowledge.logits
    assert classifier is not None, "`needs` requests a classifier"
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"simkd reuses the teacher's classifier: {learner.name} has {ours.shape[1]} classes "
            f"and {teacher.name} {theirs.shape[1]}"
        )
    return classifier
