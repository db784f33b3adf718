"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.core.reading import logits_of


class Ensemble(nn.Module):
    """Networks from one input to logits [..., C], whose mean probability is the ensemble's."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """What each network receives, to the logarithm of the mean probabilities [..., C]."""
        members = [logits_of(network(*given, **named)).log_softmax(-1) for network in self.networks]
        return torch.stack(members).logsumexp(0) - log(len(members))
