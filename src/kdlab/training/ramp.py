"""Ramps: how the weight of a loss rises over its first epochs.

- `linear`, (e + 1) / E: full in epoch E, above zero from the first (Zhao et al., DKD, CVPR 2022, their code);
- `from_zero`, e / E: zero in the first epoch (Chen et al., ReviewKD, CVPR 2021, their code);
- `sigmoid`, exp(−5 (1 − e / E)²): slow at first (Laine, Aila, Temporal Ensembling, ICLR 2017, section 2.1).

e is the epoch of the phase, counted from 0, and E the epochs of the ramp. A ramp below 1 is a share of the phase's
epochs: `ramp: 0.25` takes 75 epochs of 300, and 5 of 20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp

SHAPES: Mapping[str, Callable[[int, float], float]] = {
    "linear": lambda epoch, epochs: min(1.0, (epoch + 1) / epochs),
    "from_zero": lambda epoch, epochs: min(1.0, epoch / epochs),
    "sigmoid": lambda epoch, epochs: exp(-5 * (1 - min(1.0, epoch / epochs)) ** 2),
}


def ramp(epoch: int, length: float, shape: str = "linear", epochs: int = 1) -> float:
    """The factor of a weight, from 0 to 1.

    Args:
        epoch: of the phase, counted from 0.
        length: of the ramp, in epochs, or below 1 a share of the phase; 0: no ramp, the factor is 1.
        shape: one of `SHAPES`.
        epochs: of the phase.
    """
    return SHAPES[shape](epoch, length if length >= 1 else length * epochs) if length else 1.0
