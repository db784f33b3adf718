"""dml: peers are trained together, each taught by every other.

Zhang, Xiang, Hospedales, Lu. Deep Mutual Learning. CVPR 2018, equations 6 and 9.

    L_i = CE(p_i, y) + 1/(K − 1) Σ over j ≠ i of KL(p_j ‖ p_i)

All peers learn from the predictions before the step, so K networks cost K forward passes; the authors'
algorithm runs each of them again after its update.
"""

from __future__ import annotations

from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes._peers import Peers
from kdlab.modes.mode import Cast


class DML(Peers):
    """Every peer teaches every other."""

    wants_peers = True

    def __init__(self, cast: Cast) -> None:
        super().__init__(*(cast.learners(place) for place in range(1 + cast.peers)))

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        outputs = [peer(batch) for peer in self.observed]
        return [
            Lesson(own, tuple(outputs[other].detach() for other in self.others(place)), batch["target"], batch["index"])
            for place, own in enumerate(outputs)
        ]
