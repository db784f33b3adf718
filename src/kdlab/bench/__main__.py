"""`python -m kdlab.bench`: what the platform costs, against loops written by hand."""

from __future__ import annotations

import sys

import torch

from kdlab.bench import step
from kdlab.bench.setting import PAIRS, Setting, hardware

torch.set_num_threads(int(sys.argv[1]))
print(hardware())
for name in sys.argv[2:]:
  for _ in range(3 if name=='small' else 1):
    r, d = step.measure(Setting(PAIRS[name], *((30,25) if name=='small' else (8,1))), 50000)
    print(name, r, d, flush=True)
