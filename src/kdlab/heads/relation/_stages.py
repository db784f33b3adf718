"""The stages of two networks side by side, in the teacher's channels, for relations between neighbouring stages."""

from __future__ import annotations

from torch import Tensor, nn

from kdlab.core.knowledge import Example, Knowledge
from kdlab.heads.shapes import Align, mapped, on_line, paired_stages, read_map, stage_map


class StagePairs(nn.Module):
    """Maps of all paired stages; a learned 1×1 convolution where the learner's channels are not the teacher's.

    `stem`: preceded by the two stems, where both networks have one.
    """

    def __init__(self, learner: Example, teacher: Example, *, stem: bool = False) -> None:
        super().__init__()
        self.pairs = paired_stages(learner, teacher)
        if len(self.pairs) < 2:
            raise ValueError(
                f"relations between neighbouring stages need two in each network: {learner.name} has "
                f"{len(learner.knowledge.stages)} and {teacher.name} {len(teacher.knowledge.stages)}; "
                "name more in the model's taps"
            )
        self.line = on_line(learner, teacher)
        self.adapters = nn.ModuleList()
        maps = [
            (stage_map(learner, ours, line=True), stage_map(teacher, theirs, line=True)) for ours, theirs in self.pairs
        ]
        one, other = learner.knowledge.stem, teacher.knowledge.stem
        self.stem = False
        if stem and one is not None and other is not None:
            self.stem = True
            maps.insert(0, (one, other))
        for one, other in maps:
            source, target = one.shape[1], other.shape[1]
            self.adapters.append(nn.Identity() if source == target else Align(source, target))

    def forward(self, learner: Knowledge, teacher: Knowledge) -> tuple[list[Tensor], list[Tensor]]:
        """The learner's maps [B, D, ., .] and the teacher's, shallow to deep, in the same channels."""
        ours = [read_map(learner, position, line=self.line) for position, _ in self.pairs]
        theirs = [read_map(teacher, position, line=self.line) for _, position in self.pairs]
        if self.stem:
            assert learner.stem is not None
            assert teacher.stem is not None
            ours, theirs = [learner.stem, *ours], [teacher.stem, *theirs]
        valid = learner.valid if self.line else None
        return [mapped(adapter, features, valid) for adapter, features in zip(self.adapters, ours, strict=True)], theirs
