"""Heads on networks of transformers: padding changes no loss, and every family can be compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdlab.heads.feature.distilbert import DistilBERT
from kdlab.heads.feature.pkd import PKD
from kdlab.heads.feature.tinybert import TinyBERT
from kdlab.heads.head import Head
from kdlab.heads.relation.minilm import MiniLM
from kdlab.heads.relation.minilmv2 import MiniLMv2
from support.sequence_examples import loss_of

HEADS: dict[str, Callable[[], Head]] = {
    "distilbert": DistilBERT,
    "pkd": lambda: PKD("uniform", "first"),
    "pkd of the last token": lambda: PKD("uniform", "last"),
    "tinybert": lambda: TinyBERT("uniform", 1.0),
    "minilm": MiniLM,
    "minilmv2": lambda: MiniLMv2(4, -1),
}

each_head = pytest.mark.parametrize("name", HEADS)


@each_head
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_changes_no_loss(name: str, family: str) -> None:
    plain = loss_of(HEADS[name](), families=(family, family)).item()
    assert plain > 1e-6
    assert loss_of(HEADS[name](), length=9, families=(family, family)).item() == pytest.approx(plain, rel=1e-9)
    assert loss_of(HEADS[name](), noise=11, families=(family, family)).item() == pytest.approx(plain, rel=1e-9)


@each_head
@pytest.mark.parametrize("families", [("distilbert", "bert"), ("gpt2", "gpt2"), ("llama", "llama")], ids="-".join)
def test_networks_of_every_family_are_compared(name: str, families: tuple[str, str]) -> None:
    loss = loss_of(HEADS[name](), families=families)
    assert loss.isfinite()
    assert loss > 0
    loss.backward()
