"""Observes a network: its knowledge of a batch, without changing the network.

`find_taps` finds the taps. An `Observer` hooks only what is requested, returns what the hooks caught in one call, and
keeps none of it.

    with Observer(network, find_taps(network, input), Fields(stages=(-1,))) as observer:
        network.compile()            # optional, but only after the hooks are set: later ones catch nothing
        knowledge = observer({"input": input})

Copy a network before observing it: a later copy would have the same hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import NoReturn, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdlab.core.deferred import Deferred
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Attention, Batch, Example, Fields, Input, Knowledge, Positions, positions, samples_of
from kdlab.core.reading import Reader, RowPerSample, ask, valid_positions
from kdlab.networks.attention import AttentionCatcher
from kdlab.networks.taps import Taps, find_taps
from kdlab.networks.trace import dry_run, first_tensor, module_of, trace
from kdlab.networks.withheld import can_withhold, classified, withheld

__all__ = ["Observer", "Taps", "find_taps"]


ROW_PER_SAMPLE = RowPerSample()


class Observer:
    """Runs a network, in the mode that the caller set, and returns what `fields` request. A context manager.

    Raises:
        UsageError: where the taps do not offer what `fields` request, or name no module.
    """

    def __init__(self, network: nn.Module, taps: Taps, fields: Fields, reader: Reader = ROW_PER_SAMPLE) -> None:
        self._network = network
        self._reader = reader
        self._taps = taps
        count = len(taps.stages)
        self._stages = self._chosen("stages", taps.stages, fields.stages, count)
        self._preactivations = self._chosen("preactivations", taps.preactivations, fields.preactivations, count)
        self._blocks = self._chosen("blocks", taps.blocks, fields.blocks, len(taps.blocks))
        attentions = ("",) * taps.attentions
        self._attention = self._chosen("attention", attentions, fields.attention, taps.attentions)
        if (fields.embedding or fields.classifier) and taps.classifier is None:
            raise self._refusal("a linear classifier")
        if fields.normalisations and not taps.offers.normalisations:
            raise self._refusal("normalisations")
        if fields.final_map and taps.final_map is None:
            raise self._refusal("a final map")
        self._fields = fields
        self._embedding = f"{taps.classifier}:input" if fields.embedding else None
        self._final_map = taps.final_map if fields.final_map else None
        self._stem = taps.stem if fields.stem else None
        wanted = (*self._stages, *self._preactivations, self._embedding, self._final_map, self._stem, *self._blocks)
        self._modules = {tap: module_of(network, tap) for tap in wanted if tap is not None}
        self._hooks: list[RemovableHandle] = []
        self._caught: dict[str, Tensor] | None = None
        self._can_withhold: bool | None = None
        classifier = None if taps.classifier is None else network.get_submodule(taps.classifier)
        self._classifier = classifier if isinstance(classifier, nn.Linear) else None

    def __enter__(self) -> Self:
        for tap in self._modules if not self._hooks else ():
            self._hooks.append(self._hook(tap))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def __call__(self, batch: Batch, *, defer: bool = False) -> Knowledge:
        """The network's knowledge of a batch, of which it receives the `input`.

        `defer`: the logits are computed when they are read, where a linear classifier makes them last of all.

        Raises:
            RuntimeError: where a tap does not fire.
            UsageError: where the network does not return what the reader expects.
        """
        defer = defer and self._withholds(batch["input"])
        caught: dict[str, Tensor] = {}
        self._caught = caught
        attention = AttentionCatcher() if self._fields.attention else None
        try:
            with attention or nullcontext():
                logits, rows = self._read(batch, defer)
        finally:
            self._caught = None
        if len(caught) < len(self._modules):
            self._explain(batch["input"], caught)
        return Knowledge(
            logits=logits,
            embedding=None if self._embedding is None else self._reader.laid_out(caught[self._embedding], batch),
            stages=tuple(None if tap is None else caught[tap] for tap in self._stages),
            preactivations=tuple(None if tap is None else caught[tap] for tap in self._preactivations),
            rows=rows,
            final_map=None if self._final_map is None else caught[self._final_map],
            stem=None if self._stem is None else caught[self._stem],
            valid=valid_positions(batch["input"]),
            blocks=tuple(None if tap is None else caught[tap] for tap in self._blocks),
            attention=() if attention is None else self._attended(attention.caught),
        )

    def example(self, batch: Batch) -> Example:
        """The network's knowledge in a dry run, with its modules that `fields` request.

        Eval mode, no gradients, never compiled; modes, buffers and random numbers stay as they are.
        """
        with dry_run(self._network, batch["input"]):
            knowledge = self(batch)
        modules = dict(self._network.named_modules(remove_duplicate=False))
        classifier = modules[self._taps.classifier] if self._fields.classifier and self._taps.classifier else None
        assert classifier is None or isinstance(classifier, nn.Linear)
        names = self._taps.normalisations if self._fields.normalisations else ()
        return Example(
            knowledge=knowledge,
            classifier=classifier,
            normalisations=tuple(None if name is None else modules[name] for name in names),
            layers=self._taps.stages,
            name=type(self._network).__name__,
            final_layer=self._taps.final_map,
            input=batch["input"],
        )

    def _read(self, batch: Batch, defer: bool) -> tuple[Tensor | Deferred, Tensor]:
        input = batch["input"]
        if not defer:
            return self._reader.read(ask(self._network, input), batch)
        assert self._classifier is not None, "it is withheld"
        with withheld(self._classifier):
            output = ask(self._network, input)
        embedding, rows = self._reader.read(output, batch)
        return Deferred(len(rows), classified(self._classifier, embedding, input)), rows

    def _withholds(self, input: Input) -> bool:
        """Whether the classifier can be left out, found out once."""
        if self._can_withhold is None:
            few = samples_of({"input": input}, 0, 2)["input"]
            self._can_withhold = self._classifier is not None and can_withhold(self._network, self._classifier, few)
        return self._can_withhold

    def _hook(self, tap: str) -> RemovableHandle:
        module, before = self._modules[tap]
        clone = tap in self._taps.overwritten

        def catch(given: object) -> None:
            if self._caught is None:
                return
            tensor = first_tensor(given)
            if tensor is not None:
                self._caught[tap] = tensor.clone() if clone else tensor

        if before:
            return module.register_forward_pre_hook(lambda _, *given: catch(given), with_kwargs=True)
        return module.register_forward_hook(lambda _, given, returned: catch(returned))

    def _attended(self, caught: Sequence[Attention]) -> tuple[Attention | None, ...]:
        if len(caught) != len(self._attention):
            raise RuntimeError(
                f"{type(self._network).__name__} ran {len(caught)} attentions, but "
                f"{len(self._attention)} in a dry run: where it is compiled, set trainer.compile=false"
            )
        return tuple(None if tap is None else seen for tap, seen in zip(self._attention, caught, strict=True))

    def _chosen(self, what: str, taps: Sequence[str | None], asked: Positions, count: int) -> tuple[str | None, ...]:
        """Of each of `count` places, the tap to read, or None where not requested."""
        if not asked:
            return (None,) * count
        try:
            places = positions(asked, count)
        except IndexError:
            raise self._refusal(f"{what} {asked}") from None
        if what == "preactivations" and asked == "all":  # only the existing ones
            places = tuple(place for place in places if taps[place] is not None)
        elif not places or any(place >= len(taps) or taps[place] is None for place in places):
            raise self._refusal(f"{what} {asked}")
        return tuple(taps[place] if place in places else None for place in range(count))

    def _refusal(self, asked: str) -> UsageError:
        def listed(taps: Sequence[str | None]) -> str:
            return ", ".join(f"{place} ({tap})" for place, tap in enumerate(taps) if tap is not None) or "none"

        return UsageError(
            f"{asked} requested from {type(self._network).__name__}, which offers stages {listed(self._taps.stages)}; "
            f"preactivations {listed(self._taps.preactivations)}; normalisations {listed(self._taps.normalisations)}; "
            f"final map {self._taps.final_map or 'none'}; classifier {self._taps.classifier or 'none'}; "
            f"blocks {listed(self._taps.blocks)}; attentions {self._taps.attentions or 'none'}: "
            "choose another loss, or name more in the model's taps"
        )

    def _explain(self, input: Input, caught: dict[str, Tensor]) -> NoReturn:
        """Explains, by a dry run, why a tap did not fire."""
        if not self._hooks:
            raise RuntimeError("this Observer has no hooks: call it inside `with Observer(...) as observer:`")
        missing = [tap for tap in self._modules if tap not in caught]
        seen = trace(self._network, input)
        for tap in missing:
            seen.at(tap)
        raise RuntimeError(
            f"taps {', '.join(missing)} did not fire, but do in a run that is not compiled: "
            "enter the Observer first, then call network.compile()"
        )
