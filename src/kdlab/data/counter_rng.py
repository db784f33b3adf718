"""Random numbers that depend on their purpose, not on how many were drawn before.

The finaliser and the increment of SplitMix64 (Steele, Lea, Flood. Fast Splittable Pseudorandom Number
Generators. OOPSLA 2014; the multipliers are Stafford's variant 13). Over integers modulo 2^64:

    absorb(h, x) = mix(h + (x + 1) γ)
    h            = absorb(absorb(absorb(absorb(0, seed), stream), index), view)
    output j     = absorb(h, j)

so that every (seed, stream, index, view) seeds its own SplitMix64. The same numbers come out on any
device, on any rank and in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

ORDER, AUGMENT, SPLIT, WRITE, CHOOSE = range(5)
"""Streams keep the numbers of different purposes apart."""


def uniform(seed: int, index: Tensor, view: Tensor, stream: int, n: int) -> Tensor:
    """[B, n] float32 in [0, 1), multiples of 2^-24, for the samples `index` [B] int64 in their `view` [B] int64."""
    state = _absorb(_absorb(_key(seed, stream), index), view)
    bits = _absorb(state[:, None], torch.arange(n, device=index.device))
    return _shifted(bits, 40).float() * 2.0**-24


def order(n: int, seed: int, epoch: int, stream: int = ORDER) -> Tensor:
    """The permutation of n samples [n] int64 that belongs to (seed, epoch)."""
    keys = _absorb(_absorb(_key(seed, stream), torch.arange(n)), torch.tensor(epoch))
    return keys.argsort(stable=True)


def _key(seed: int, stream: int) -> Tensor:
    return _absorb(_absorb(torch.tensor(0), torch.tensor(_signed(seed))), torch.tensor(stream))


def _absorb(state: Tensor, value: Tensor) -> Tensor:
    return _mix(state + (value + 1) * _INCREMENT)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


# int64 shifts keep the sign, but the hash is defined on unsigned words.
def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


_INCREMENT, _FIRST, _SECOND = (_signed(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
