"""Taps: where a network is observed, and the rules by which one dry run finds them.

**Classifier**: the last `Linear` whose weight and bias turn its input, the embedding [B, D], into the logits.

**Stages** of a transformer are four evenly spaced blocks, the last one included. Of a convolutional network,
the stage at a resolution is the input of the outermost module that makes exactly one step down from it, and
the last stage is the last map before pooling. Resolution counts in levels, round(log2(image side / map side)),
so that padding is not a step. A level that no convolution reads, such as the one between the strided convolution
and the pool of an ImageNet stem, has no stage unless it is the deepest. Maps are read as [B, D, H, W]: declare
the taps of networks that work channels last, such as torchvision's Swin, and of bodies with two resolutions
inside one module, which is then itself the step.

**Blocks** of a transformer are all of them, in order; what the first one reads comes before.

**Attention** is not tapped but caught where it happens: see `kdlab.networks.attention`.

**Final map**: the last map before pooling whose mean over positions is the embedding. It is the last stage of
most networks, but not where the stages are named before a last normalisation or convolution. There is none where
the embedding is a class token, is normalised after pooling, or where no module sees the map.

**Preactivation** of a convolutional stage, the first of these that there is:

1. the input of the last activation before the map, where it has the map's shape and no convolution follows;
2. the input of the activation that reads the map, directly or through a normalisation: networks that activate
   before they convolve (so Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, tap WRN);
3. the map itself where it has negative values, which no rectifier leaves: MobileNetV2's linear bottlenecks.

Where a stage ends in a function, `F.relu(x)`, instead of a module, there is none to be seen.

**Normalisation** of a stage: the last one of the stage's channels to run before its preactivation was there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields, Input
from kdlab.networks.maps import dimensions, final_map, is_final, stage_maps
from kdlab.networks.stem import find_stem
from kdlab.networks.trace import Call, Trace, Value, module_of, trace

BLOCKS = 4
"""How many blocks of a transformer are stages."""


@dataclass(frozen=True)
class Taps:
    """Where a network is observed. `layer1` is that module's output, `layer2:input` its input.

    stages: shallow to deep.
    preactivations: per stage, in the same syntax, or None.
    normalisations: per stage, the module's name, or None.
    classifier: the `Linear` module that turns the embedding into the logits, or None.
    final_map: the map before pooling, in the same syntax, or None.
    stem: what the stages start from, or None; see `kdlab.networks.stem`.
    overwritten: the maps that an in-place operation overwrites later.
    blocks: the input of the first transformer block, and every block; empty where there are none.
    attentions: how many there are in one pass.
    """

    stages: tuple[str, ...] = ()
    preactivations: tuple[str | None, ...] = ()
    normalisations: tuple[str | None, ...] = ()
    classifier: str | None = None
    overwritten: frozenset[str] = frozenset()
    final_map: str | None = None
    stem: str | None = None
    blocks: tuple[str, ...] = ()
    attentions: int = 0

    @property
    def offers(self) -> Fields:
        """What a head may request from this network."""
        before = tuple(place for place, tap in enumerate(self.preactivations) if tap is not None)
        return Fields(
            embedding=self.classifier is not None,
            stages="all" if self.stages else (),
            preactivations="all" if before and len(before) == len(self.stages) else before,
            classifier=self.classifier is not None,
            normalisations=any(name is not None for name in self.normalisations),
            final_map=self.final_map is not None,
            blocks="all" if self.blocks else (),
            attention="all" if self.attentions else (),
        )


def find_taps(network: nn.Module, input: Input, declared: Mapping[str, Any] | None = None) -> Taps:
    """The taps of a network, from one dry run that leaves it unchanged.

    Args:
        network: any module that returns logits; see `kdlab.core.reading.logits_of`.
        input: a small batch, real or random, on the network's device.
        declared: `stages`, `preactivations`, `final_map`, `classifier` and `stem`, as a model's YAML may name them;
            missing ones and None are found.

    Raises:
        UsageError: where `declared` names no module, or the network does not return logits [B, C].
        RuntimeError: where a declared tap never fires.
    """
    declared = {key: value for key, value in (declared or {}).items() if value is not None}
    for key in declared.keys() - {"stages", "preactivations", "final_map", "classifier", "stem"}:
        raise UsageError(
            f"taps.{key} is unknown: a model's taps are stages, preactivations, final_map, classifier and stem"
        )
    seen = trace(network, input)
    stages = {tap: seen.at(tap) for tap in declared["stages"]} if "stages" in declared else _stages(seen)
    before = [_preactivation(seen, tap, value) for tap, value in stages.items()]
    if "preactivations" in declared:
        before = list(declared["preactivations"])
        if len(before) != len(stages):
            raise UsageError(
                f"taps.preactivations has {len(before)} entries for {len(stages)} stages ({', '.join(stages)}): "
                "give each stage one, or null"
            )
    classifier = declared.get("classifier") or _classifier(seen)
    if classifier is not None and not _classifies(seen, classifier):
        raise UsageError(f"taps.classifier: {classifier} is not a Linear whose output is the logits; leave it out")
    blocks = _blocks(seen)
    stem = declared.get("stem") or (find_stem(seen, next(iter(stages.values())), _follows) if stages else None)
    values = stages | {tap: seen.at(tap) for tap in (*before, stem) if tap is not None}
    return Taps(
        stages=tuple(stages),
        preactivations=tuple(before),
        normalisations=tuple(None if tap is None else _normalisation(seen, values[tap]) for tap in before),
        classifier=classifier,
        overwritten=frozenset(tap for tap, value in values.items() if value.overwritten),
        final_map=_final_map(seen, classifier, stages, declared.get("final_map")),
        stem=stem,
        blocks=(f"{blocks[0].name}:input", *(block.name for block in blocks)) if blocks else (),
        attentions=seen.attentions,
    )


def _classifier(seen: Trace) -> str | None:
    return next((call.name for call in reversed(seen.last) if _classifies(seen, call.name)), None)


def _classifies(seen: Trace, name: str) -> bool:
    module, _ = module_of(seen.network, name)
    if not isinstance(module, nn.Linear):
        return False
    # With the weight and bias that heads read: a cosine classifier may inherit from Linear.
    embedding = seen.at(f"{name}:input").tensor.to(module.weight.dtype)
    if (*embedding.shape[:-1], module.out_features) != seen.logits.shape:
        return False
    with torch.no_grad():
        logits = linear(embedding, module.weight, module.bias).to(seen.logits.dtype)
    return torch.allclose(logits, seen.logits, rtol=1e-3, atol=1e-5, equal_nan=True)


def _final_map(seen: Trace, classifier: str | None, stages: Mapping[str, Value], declared: str | None) -> str | None:
    embedding = None if classifier is None else seen.at(f"{classifier}:input").tensor
    if declared is not None:
        if embedding is None or not is_final(seen.at(declared), embedding):
            raise UsageError(
                f"taps.final_map: {declared} is not a map whose mean over positions the classifier reads; leave it out"
            )
        return declared
    value = None if embedding is None else final_map(seen, embedding)
    if value is None:
        return None
    return next((tap for tap, stage in stages.items() if stage == value), None) or seen.tap(value)


def _stages(seen: Trace) -> dict[str, Value]:
    """The stages of any network by their taps; a map that no tap sees is left out."""
    if blocks := _blocks(seen):
        count = min(BLOCKS, len(blocks))
        chosen = [blocks[stage * len(blocks) // count - 1] for stage in range(1, count + 1)]
        return {call.name: call.output for call in chosen if call.output is not None}
    stages: dict[str, Value] = {}
    since = 0
    for value in stage_maps(seen):
        # Only modules started after the last stage, so that a stage does not get the name of the whole body.
        tap = seen.tap(value, begun=since)
        since = seen.since(value)
        if tap is not None:
            stages[tap] = value
    return stages


def _blocks(seen: Trace) -> list[Call]:
    """The blocks, of one class in one container; none where the network works on maps, not on tokens."""
    tokens = [call for call in seen.last if dimensions(seen, call.output) == 3]
    if len(tokens) <= sum(dimensions(seen, call.output) == 4 for call in seen.last):
        return []
    groups: dict[tuple[str, type], list[Call]] = {}
    for call in tokens:
        container = call.name.rpartition(".")[0]
        listed = isinstance(seen.network.get_submodule(container), nn.ModuleList | nn.Sequential)
        if listed and next(call.module.children(), None) is not None:
            groups.setdefault((container, type(call.module)), []).append(call)
    repeated = [blocks for blocks in groups.values() if len(blocks) > 1] or list(groups.values())
    outermost = [
        blocks
        for blocks in repeated
        if not any(blocks[0].name.startswith(f"{outer.name}.") for others in repeated for outer in others)
    ]
    return max(outermost, key=lambda blocks: (len(blocks), blocks[-1].end), default=[])


def _preactivation(seen: Trace, stage: str, value: Value) -> str | None:
    """The first of the three kinds above that exists."""
    if value.tensor.ndim != 4:
        return None
    activations = [
        (call, call.input)
        for call in seen.calls
        if call.input is not None and call.input.tensor.shape == value.tensor.shape and _activates(call.module)
    ]
    since = seen.since(value)
    weighed = max((call.start for call in seen.calls if call.start < since and _weighs(call.module)), default=-1)
    made = [before for call, before in activations if weighed < call.start and call.end <= since]
    normalised = [call.output for call in seen.calls if call.input == value and _channels(call.module)]
    read = [before for _, before in activations if before == value or before in normalised]
    found = made[-1:] + read
    if found:
        return seen.tap(found[0])
    return stage if bool((value.tensor < 0).any()) else None


def _normalisation(seen: Trace, value: Value) -> str | None:
    channels = value.tensor.shape[1 if value.tensor.ndim == 4 else -1]
    since = seen.since(value)
    names = [call.name for call in seen.calls if call.start < since and _channels(call.module) == channels]
    return names[-1] if names else None


def _weighs(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _activates(module: nn.Module) -> bool:
    # torch, transformers and timm all keep them in modules called activation or activations.
    return any(kind.__module__.rpartition(".")[2].startswith("activation") for kind in type(module).__mro__)


def _follows(module: nn.Module) -> bool:
    return _activates(module) or _channels(module) is not None


def _channels(module: nn.Module) -> int | None:
    """The channels that a normalisation has; None for any other module."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    return module.num_features if isinstance(module, nn.modules.batchnorm._NormBase) else None
