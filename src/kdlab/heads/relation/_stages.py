"""The stages of two networks side by side, in the teacher's channels, for relations between neighbouring stages."""

from __future__ import annotations

from torch import Tensor, nn

from kdlab.core.knowledge import Example, Knowledge
from kdlab.heads.shapes import Align, as_map, paired_stages, stage_map


class StagePairs(nn.Module):
    """Maps of all paired stages; a learned 1×1 convolution where the learner's channels are not the teacher's."""

    def __init__(self, learner: Example, teacher: Example) -> None:
        super().__init__()
        self.pairs = paired_stages(learner, teacher)
        if len(self.pairs) < 2:
            raise ValueError(
                f"relations between neighbouring stages need two in each network: {learner.name} has "
                f"{len(learner.knowledge.stages)} and {teacher.name} {len(teacher.knowledge.stages)}; "
                "name more in the model's taps"
            )
        self.adapters = nn.ModuleList()
        for ours, theirs in self.pairs:
            source, target = stage_map(learner, ours).shape[1], stage_map(teacher, theirs).shape[1]
            self.adapters.append(nn.Identity() if source == target else Align(source, target))

    def forward(self, learner: Knowledge, teacher: Knowledge) -> tuple[list[Tensor], list[Tensor]]:
        """The learner's maps [B, D, ., .] and the teacher's, shallow to deep, in the same channels."""
        ours = [
            adapter(as_map(learner.stage(position)))
            for adapter, (position, _) in zip(self.adapters, self.pairs, strict=True)
        ]
        return ours, [as_map(teacher.stage(position)) for _, position in self.pairs]
