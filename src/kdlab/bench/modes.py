"""A mode's training step against the sum of its parts: its forward passes, one backward pass, one update.

The passes are those that are seen in a step of the mode: which network, on what input, with gradients or
without. They are made again by hand, in the same order, over the same networks, with a mean of squares in the
place of all losses. So a mode that asks a network twice is seen to do so, and one that does more than its
passes is seen to be slower than their sum; one whose networks share what runs once, as the branches of `one`
do, is faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import SGD

from kdlab.bench.interleave import Gate, Race, TimedLoop, race
from kdlab.bench.workload import Workload, platform_loop
from kdlab.core.knowledge import Batch, Progress
from kdlab.modes.mode import Mode
from kdlab.networks.trace import first_tensor
from kdlab.run.builder import assemble


@dataclass(frozen=True, eq=False)
class Pass:
    """One run of a module that no other module ran."""

    module: nn.Module
    input: tuple[object, ...]
    gradients: bool

    def again(self) -> Tensor:
        """The first tensor that the module returns for the same input, with gradients where it had them."""
        with torch.set_grad_enabled(self.gradients):
            said = first_tensor(self.module(*self.input))
        assert said is not None
        return said


def mode_over_parts(setting: Workload, name: str) -> tuple[Race, str]:
    """Races a mode, with `kd`, against its parts.

    Returns:
        The race, and the passes in words: `2 student, 1 teacher VGG`.
    """
    config = setting.config(f"mode={name}", "loss=kd", "optimizer.lr=1e-6")
    data = setting.data(config)
    mode = assemble(config, labels=data.labels).mode.to(setting.device)
    mode.move(setting.device)
    loader = data.train_loader(setting.batch_size, config.seed, device=setting.device, views=mode.shows)
    passes = passes_of(mode, list(islice(loader, 2)), Progress(steps=len(loader)))
    with TemporaryDirectory() as folder:
        ours = TimedLoop(platform_loop(config, data, Path(folder)))
        theirs = TimedLoop(parts_loop(mode, passes))
        measured = race(ours, theirs, setting.blocks, setting.steps)
        ours.finish(), theirs.finish()
    names = {source.network: source.name for source in mode.sources}
    counted = Counter(names.get(each.module, type(each.module).__name__) for each in passes)
    return measured, ", ".join(f"{count} {name}" for name, count in counted.items())


def passes_of(mode: Mode, batches: Sequence[Batch], progress: Progress) -> list[Pass]:
    """The passes of a mode's last step, after as many as there are other batches: some remember the step before."""
    mode.begin_epoch(progress)
    for batch in batches:
        with _watched(mode) as passes:
            mode(batch, progress)
        mode.after_step(progress)
    return passes


def parts_loop(mode: Mode, passes: Sequence[Pass]) -> Callable[[Gate], None]:
    """The passes of a step, a backward pass through those with gradients, an update."""

    def loop(gate: Gate) -> None:
        optimizer = SGD([each for each in mode.parameters() if each.requires_grad], lr=1e-6, momentum=0.9)
        for _ in gate(repeat({})):
            said = [each.again() for each in passes]
            optimizer.zero_grad()
            loss = torch.stack([each.square().mean() for each in said if each.requires_grad]).sum()
            torch.autograd.backward(loss)
            optimizer.step()

    return loop


@contextmanager
def _watched(mode: Mode) -> Iterator[list[Pass]]:
    """Notes every module that runs, but for the mode itself and for modules within one that runs."""
    passes: list[Pass] = []
    running: list[nn.Module] = []

    def begins(module: nn.Module, given: tuple[object, ...]) -> None:
        if running == [mode]:
            passes.append(Pass(module, tuple(map(_apart, given)), torch.is_grad_enabled()))
        running.append(module)

    def ends(module: nn.Module, given: object, returned: object) -> None:
        running.pop()

    hooks = register_module_forward_pre_hook(begins), register_module_forward_hook(ends)
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _apart(given: object) -> object:
    # The same tensors, as the ends of a graph of their own.
    if isinstance(given, Tensor):
        return given.detach().requires_grad_(given.requires_grad)
    return [_apart(each) for each in given] if isinstance(given, tuple | list) else given
