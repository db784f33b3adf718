"""One network of a run: built from its config, started from given weights, tapped, grafted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kdlab.config.instantiate import build, network_arguments
from kdlab.config.schema import Component
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Fields, Needs, Offer
from kdlab.core.reading import Reader, ask, shape_of
from kdlab.models.layer_copy import copy_layers
from kdlab.networks.observer import find_taps
from kdlab.networks.taps import Taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.networks.trace import dry_run
from kdlab.run.memory import refuse_giant
from kdlab.training.objective import Term


def make_network(config: Component, key: str = "model", allow: Sequence[str] = ()) -> nn.Module:
    """A network from its config or from that of a `student.yaml`, with untrained weights.

    Raises:
        UsageError: where the settings do not make one, or one too large for this machine.
    """
    settings = network_arguments(config)
    if str(settings.get("_target_")).startswith("kdlab.models."):
        refuse_giant(settings, key)
    try:
        return build(settings, nn.Module, key, allow=allow)
    except (RuntimeError, ArithmeticError, MemoryError, TypeError) as error:
        raise UsageError(f"{key} cannot be built with its settings: {type(error).__name__}: {error}") from error


def start_from_teacher(network: nn.Module, config: Component, key: str, teachers: Sequence[Teacher]) -> None:
    """Gives a network the layers of the first teacher that its config names, if any.

    Raises:
        UsageError: where there is no frozen teacher, or it has no such layers.
    """
    if (layers := config.get("from_teacher")) is None:
        return
    if not teachers:
        raise UsageError(f"{key}.from_teacher={layers} needs a frozen teacher, which this run does not have")
    try:
        copy_layers(network, teachers[0].network, layers)
    except UsageError as error:
        raise UsageError(f"{key}.{error}") from error


def taps_of(
    network: nn.Module, config: Component, batch: Batch, key: str, reader: Reader, expected: int | None = None
) -> Taps:
    """The taps of a network: those that its config names, else those that a dry run finds.

    Raises:
        UsageError: where it does not take such batches, has not the `expected` outputs, or no such taps.
    """
    declared, input = config.get("taps"), batch["input"]
    if declared is not None and not _names(declared):
        raise UsageError(f"{key}.taps={declared}: expected names of layers, {{stages: [NAME, ...], classifier: NAME}}")
    try:
        with dry_run(network, input):
            outputs = reader.read(ask(network, input), batch)[0].shape[1]
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{key} does not take batches of {shape_of(input)}: {error}") from error
    if expected is not None and outputs != expected:
        raise UsageError(f"{key} has {outputs} outputs, but this data needs {expected}")
    try:
        return find_taps(network, input, declared)
    except (RuntimeError, UsageError) as error:
        raise UsageError(f"{key}.taps: {error}") from error


def grafted(
    term: Term, student: Observed, config: dict[str, Any], teachers: Sequence[Teacher], batch: Batch
) -> tuple[Observed, dict[str, Any]]:
    head = term.make()
    if not head.grafts:
        return student, config
    if not teachers:
        raise UsageError(f"loss={term.name} builds parts of a frozen teacher into the student; this run has none")
    # What the grafted student offers is only known once it exists.
    needs = Needs(learner=Fields(classifier=True), teacher=head.needs().teacher)
    if unmet := needs.unmet(Offer(student.offers, teachers[0].offers)):
        raise UsageError(f"loss={term.name} needs {' and '.join(unmet)}, which this run does not provide")
    for side in (student, teachers[0]):
        side.listen(replace(side.offers, preactivations=(), normalisations=False))
    learner, teacher = student.example(batch), teachers[0].example(batch)
    student.close()
    network = head.graft(student.network, learner, teacher)
    describe: Any = network.config
    rebuilt = describe({key: value for key, value in config.items() if key != "taps"})
    taps = find_taps(network, batch["input"], getattr(network, "taps", None))
    return Observed(student.name, network, taps, student.reader), rebuilt


def _names(taps: Any) -> bool:
    if not isinstance(taps, Mapping):
        return False
    kinds = dict.fromkeys(("classifier", "final_map", "stem"), str)
    return all(names is None or isinstance(names, kinds.get(key, list)) for key, names in taps.items())
