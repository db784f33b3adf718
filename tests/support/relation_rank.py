"""What crd and rrd remember of four samples that `world` processes share; run by `test_relation_ranks.py`."""

import json
import sys

import torch
from torch import distributed

from kdlab.heads.relation.crd import CRD
from kdlab.heads.relation.rrd import RRD
from support.relation_examples import CONTEXT, PROGRESS, example, knows, lesson, wave


def remembered(rank: int, world: int) -> list[list[list[float]]]:
    """crd's two banks and rrd's queue after this rank's share of one batch."""
    learner, teacher, index = wave(4, 3).float(), wave(4, 3, step=0.9).float(), torch.tensor([5, 0, 3, 10])
    mine = torch.arange(4).chunk(world)[rank]
    ours, theirs = knows(learner[mine]), knows(teacher[mine])
    crd, rrd = CRD(4, 5, 0.5, 0.5), RRD(4, 6, 0.1, 0.02)
    for head in (crd, rrd):
        torch.manual_seed(3)
        head.build(example(learner), example(teacher), CONTEXT)
        head(ours, theirs, lesson(ours, index[mine]), PROGRESS)
    return [value.tolist() for value in (crd.learner_bank, crd.teacher_bank, rrd.queue)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    print(json.dumps(remembered(rank, 2)))
    distributed.destroy_process_group()
