"""A network of which low-rank updates train, and the classifier.

Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022:

    h = W x + (α / r) B A x, with W as it was, A [r, d] random and B [k, r] zero at first
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from kdlab.core.errors import UsageError
from kdlab.models.extra import extra


def lora(
    *, base: nn.Module, rank: int, scale: float, dropout: float, targets: Sequence[str] | None, trained: Sequence[str]
) -> nn.Module:
    """The network itself, its weights frozen, with updates of low rank beside some of its layers.

    Args:
        base: any network, such as one of `kdlab.models.pretrained`.
        rank: r.
        scale: α / r.
        dropout: of x, before A.
        targets: the last parts of the names of the layers that get updates; None: those that peft knows of its
            architecture.
        trained: names of modules that train whole; those that the network does not have are passed over.

    Raises:
        UsageError: where it has no such layers.
    """
    peft = extra("peft")
    settings = peft.LoraConfig(
        r=rank, lora_alpha=scale * rank, lora_dropout=dropout, target_modules=None if targets is None else list(targets)
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # which peft then sets as GPT-2's layers want it
            network: nn.Module = peft.inject_adapter_in_model(settings, base)
    except ValueError as error:
        raise UsageError(f"targets={targets}: peft finds no such layers in {type(base).__name__}: {error}") from error
    for name, module in network.named_modules():
        if name in trained:
            module.requires_grad_(True)
    return network
