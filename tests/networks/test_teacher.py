"""What a frozen teacher is shown: the batch at its own resolution, in whatever precision the run has."""

import pytest
import torch
from torch import nn

from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Teacher


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_teacher_sees_its_own_resolution_in_the_precision_of_the_run(dtype):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    teacher = Teacher("teacher", network, find_taps(network, torch.zeros(2, 1, 4, 4)), size=4)
    teacher.to(torch.device("cpu"), dtype)
    seen = teacher.prepared(torch.full((2, 1, 8, 8), 0.5, dtype=dtype))
    assert (seen.dtype, tuple(seen.shape)) == (dtype, (2, 1, 4, 4))
    assert torch.equal(seen, torch.full_like(seen, 0.5))
    assert teacher({"input": seen}).logits.dtype == dtype
