"""Exits: classifiers behind an early stage of a network, and a network that ends at one.

Zhang et al. Be Your Own Teacher. ICCV 2019, whose bottleneck this is: 1×1, then a convolution whose kernel and
stride bring the map to the size of the last stage, then 1×1, each with BN and ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdlab.core.knowledge import Knowledge
from kdlab.core.reading import valid_positions
from kdlab.models.pooling import pooled
from kdlab.networks.trace import first_tensor, module_of


class Exit(nn.Module):
    """From a stage, a map [B, D, H, W] or tokens [B, L, D], to logits [B, C].

    Args:
        source, target: channels of the stage, and of the last stage.
        kernel: sides and strides of the middle convolution, which bring it to the size of the last stage; None
            for tokens, whose layers work on each separately.
        classes: number of outputs.
    """

    def __init__(self, source: int, target: int, kernel: Sequence[int] | None, classes: int) -> None:
        super().__init__()
        middle = max(1, target // 4)
        widths = ((source, middle), (middle, middle), (middle, target))
        layers: list[nn.Module] = []
        for place, (given, made) in enumerate(widths):
            if kernel is None:
                layers += [nn.Linear(given, made, bias=False), nn.LayerNorm(made), nn.ReLU()]
            else:
                sides = (kernel[0], kernel[1]) if place == 1 else (1, 1)
                layers += [nn.Conv2d(given, made, sides, sides, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        self.bottleneck = nn.Sequential(*layers[:-1])
        self.classifier = nn.Linear(target, classes)

    @property
    def normalisation(self) -> nn.Module:
        """The last one, before the activation."""
        return self.bottleneck[-1]

    def know(self, stage: Tensor, valid: Tensor | None = None) -> Knowledge:
        """Its map as the only stage and the final map, the same before the activation, embedding and logits.

        Args:
            stage: what it reads.
            valid: [B, L] bool, the tokens that are not padding; None: all.
        """
        before = self.bottleneck(stage)
        made = before.relu()
        embedding = pooled(made, valid)
        return Knowledge(self.classifier(embedding), embedding, (made,), (before,), final_map=made, valid=valid)

    def forward(self, stage: Tensor, valid: Tensor | None = None) -> Tensor:
        """The logits [B, C]; arguments as of `know`."""
        return self.know(stage, valid).logits


class _Reached(Exception):  # noqa: N818  # not an error: it ends a forward pass once the exit has its input
    def __init__(self, stage: Tensor) -> None:
        self.stage = stage


class UpToExit(nn.Module):
    """A network up to one of its exits.

    Args:
        network: the whole network, which becomes part of this one and loses what runs after the exit.
        tap: the stage that the exit reads.
        after: names of the modules that run after it.
        source, target, kernel, classes: of the exit.
        exit: instead of a new one.
    """

    def __init__(
        self,
        network: nn.Module,
        tap: str,
        after: Sequence[str],
        source: int,
        target: int,
        kernel: Sequence[int] | None,
        classes: int,
        exit: Exit | None = None,
    ) -> None:
        super().__init__()
        for name in after:
            network.set_submodule(name, nn.Identity())
        self.network = network
        self.exit = exit or Exit(source, target, kernel, classes)
        self._tap, self._stage = tap, module_of(network, tap)

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """What the network receives, [B, ...], to logits [B, C]."""
        module, before = self._stage

        def reached(_: nn.Module, *passed: object) -> None:
            stage = first_tensor(passed[0] if before else passed[-1])
            assert stage is not None, "taps are where tensors pass"
            raise _Reached(stage)

        register = module.register_forward_pre_hook if before else module.register_forward_hook
        hook = register(reached)
        try:
            self.network(*given, **named)
        except _Reached as end:
            logits: Tensor = self.exit(end.stage, valid_positions(named))
            return logits
        finally:
            hook.remove()
        raise RuntimeError(f"the network ran without {self._tap}, which its exit reads")
