"""Heads on networks of transformers: padding changes no loss, and every family can be compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdlab.heads.feature.at import AT
from kdlab.heads.feature.cwd import CWD
from kdlab.heads.feature.distilbert import DistilBERT
from kdlab.heads.feature.fitnet import FitNet
from kdlab.heads.feature.ft import FT
from kdlab.heads.feature.mgd import MGD
from kdlab.heads.feature.nst import NST
from kdlab.heads.feature.pkd import PKD
from kdlab.heads.feature.reviewkd import ReviewKD
from kdlab.heads.feature.tinybert import TinyBERT
from kdlab.heads.feature.vid import VID
from kdlab.heads.head import Head
from kdlab.heads.relation.fsp import FSP
from kdlab.heads.relation.ickd import ICKD
from kdlab.heads.relation.kdsvd import KDSVD
from kdlab.heads.relation.minilm import MiniLM
from kdlab.heads.relation.minilmv2 import MiniLMv2
from kdlab.heads.relation.sp import SP
from support.sequence_examples import loss_of
from support.transformer_networks import padded

HEADS: dict[str, Callable[[], Head]] = {
    "distilbert": DistilBERT,
    "pkd": lambda: PKD("uniform", "first"),
    "pkd of the last token": lambda: PKD("uniform", "last"),
    "tinybert": lambda: TinyBERT("uniform", 1.0),
    "minilm": MiniLM,
    "minilmv2": lambda: MiniLMv2(4, -1),
    "fitnet": lambda: FitNet(1),
    "vid": lambda: VID(5.0),
    "at": AT,
    "nst": NST,
    "cwd": lambda: CWD(-1, 4.0),
    "sp": lambda: SP(-1),
    "ickd": lambda: ICKD(-1),
    "fsp": FSP,
    "kdsvd": lambda: KDSVD(1, 3, 1e-3),
}

each_head = pytest.mark.parametrize("name", HEADS)


@each_head
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_changes_no_loss(name: str, family: str) -> None:
    plain = loss_of(HEADS[name](), families=(family, family)).item()
    assert plain > 1e-6
    assert loss_of(HEADS[name](), padded(length=9), families=(family, family)).item() == pytest.approx(plain, rel=1e-9)
    assert loss_of(HEADS[name](), padded(noise=11), families=(family, family)).item() == pytest.approx(plain, rel=1e-9)


@each_head
def test_a_batch_whose_padding_is_cut_off_has_the_same_loss(name: str) -> None:
    whole = padded((4, 4))
    cut = {"input_ids": whole["input_ids"][:, :4]}
    assert loss_of(HEADS[name](), whole).item() == pytest.approx(loss_of(HEADS[name](), cut).item(), rel=1e-9)


@each_head
@pytest.mark.parametrize("families", [("distilbert", "bert"), ("gpt2", "gpt2"), ("llama", "llama")], ids="-".join)
def test_networks_of_every_family_are_compared(name: str, families: tuple[str, str]) -> None:
    loss = loss_of(HEADS[name](), families=families)
    assert loss.isfinite()
    assert loss > 0
    loss.backward()


@pytest.mark.parametrize("length", [8, 9, 16])
@pytest.mark.parametrize("name", ["at", "nst", "cwd", "fitnet", "ickd"])
def test_tokens_are_a_line_also_where_their_number_is_a_square(name: str, length: int) -> None:
    """16 and 9 are squares, 8 is none."""
    plain = loss_of(HEADS[name]()).item()
    assert loss_of(HEADS[name](), padded(length=length)).item() == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    "make", [lambda: MGD(-1, "channels", 0.15), lambda: FT(-1, "channel_mean", 0.5), lambda: ReviewKD(8)]
)
def test_losses_that_compare_planes_are_refused_on_a_line_with_those_that_are_not(make: Callable[[], Head]) -> None:
    words = r" bert\.encoder\.layer\.\d gives 7 tokens in a line \(2, 7, \d+\), and this loss compares planes; "
    with pytest.raises(ValueError, match=words) as refused:
        loss_of(make())
    assert "fitnet" in str(refused.value)
