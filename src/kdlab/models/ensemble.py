"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from kdlab.networks.trace import logits_of


class Ensemble(nn.Module):
    """Networks from a batch [B, ...] to logits [B, C], whose mean probability is the ensemble's."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, input: Tensor) -> Tensor:
        """A batch [B, ...] to the logarithm of the mean probabilities [B, C]."""
        members = [logits_of(network(input)).log_softmax(1) for network in self.networks]
        return torch.stack(members).logsumexp(0) - log(len(members))
