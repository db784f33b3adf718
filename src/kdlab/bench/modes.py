"""A mode's training step against the sum of its parts: its forward passes, one backward pass, one update.

The passes are recorded in a step of the mode: which network, on what input, with gradients or without. They are
repeated by hand, in the same order, over the same networks, with a mean of squares instead of all losses. So the table
shows a mode that runs a network twice, and one that does more than its passes is slower than their sum; one whose
networks share a trunk, as the branches of `one` do, is faster.
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

from kdlab.bench.interleave import PairedTimes, Throttle, TimedLoop, alternate
from kdlab.bench.workload import Workload, platform_loop
from kdlab.core.knowledge import Batch, Progress
from kdlab.modes.mode import Mode
from kdlab.networks.trace import first_tensor
from kdlab.run.builder import assemble


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass of a module that no other module called."""

    module: nn.Module
    input: tuple[object, ...]
    gradients: bool

    def rerun(self) -> Tensor:
        """The first tensor that the module returns for the same input, with gradients where it had them."""
        with torch.set_grad_enabled(self.gradients):
            output = first_tensor(self.module(*self.input))
        assert output is not None
        return output


def time_mode(workload: Workload, name: str) -> tuple[PairedTimes, str]:
    """Times a mode, with `kd`, against its parts.

    Returns:
        The times, and the passes in words: `2 student, 1 teacher VGG`.
    """
    config = workload.config(f"mode={name}", "loss=kd", "optimizer.lr=1e-6")
    data = workload.data(config)
    mode = assemble(config, labels=data.labels).mode.to(workload.device)
    mode.move(workload.device)
    loader = data.train_loader(workload.batch_size, config.seed, device=workload.device, views=mode.shows)
    passes = passes_of(mode, list(islice(loader, 2)), Progress(steps=len(loader)))
    with TemporaryDirectory() as folder:
        ours = TimedLoop(platform_loop(config, data, Path(folder)))
        theirs = TimedLoop(parts_loop(mode, passes))
        measured = alternate(ours, theirs, workload.blocks, workload.steps)
        ours.finish(), theirs.finish()
    names = {source.network: source.name for source in mode.sources}
    counted = Counter(names.get(each.module, type(each.module).__name__) for each in passes)
    return measured, ", ".join(f"{count} {name}" for name, count in counted.items())


def passes_of(mode: Mode, batches: Sequence[Batch], progress: Progress) -> list[Pass]:
    """The passes of a mode's last step, after the other batches: some modes remember the step before."""
    mode.begin_epoch(progress)
    for batch in batches:
        with _recorded_passes(mode) as passes:
            mode(batch, progress)
        mode.after_step(progress)
    return passes


def parts_loop(mode: Mode, passes: Sequence[Pass]) -> Callable[[Throttle], None]:
    """The passes of a step, a backward pass through those with gradients, an update."""

    def loop(throttle: Throttle) -> None:
        optimizer = SGD([each for each in mode.parameters() if each.requires_grad], lr=1e-6, momentum=0.9)
        for _ in throttle(repeat({})):
            outputs = [each.rerun() for each in passes]
            optimizer.zero_grad()
            loss = torch.stack([each.square().mean() for each in outputs if each.requires_grad]).sum()
            torch.autograd.backward(loss)
            optimizer.step()

    return loop


@contextmanager
def _recorded_passes(mode: Mode) -> Iterator[list[Pass]]:
    """Records the outermost modules that run within the mode."""
    passes: list[Pass] = []
    running: list[nn.Module] = []

    def begins(module: nn.Module, given: tuple[object, ...]) -> None:
        if running == [mode]:
            passes.append(Pass(module, tuple(map(_detached, given)), torch.is_grad_enabled()))
        running.append(module)

    def ends(module: nn.Module, given: object, returned: object) -> None:
        running.pop()

    hooks = register_module_forward_pre_hook(begins), register_module_forward_hook(ends)
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _detached(given: object) -> object:
    # The same tensors, as leaves of a graph of their own.
    if isinstance(given, Tensor):
        return given.detach().requires_grad_(given.requires_grad)
    return [_detached(each) for each in given] if isinstance(given, tuple | list) else given
