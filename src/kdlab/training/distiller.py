"""The Distiller: batch → mode → lessons → heads → loss → step. The whole training step is here.

Optimisation is manual: Lightning provides devices, precision, processes and checkpoints, kdlab the step. The step never
waits for the device: terms add up in tensors, read every `log_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.core.knowledge import Batch, Progress, shares
from kdlab.core.rng import gather_random_state, set_random_state
from kdlab.heads.head import Head
from kdlab.modes.mode import Mode
from kdlab.networks.teacher import deferring
from kdlab.training.chunks import ChunkRows, rows_at_once
from kdlab.training.freezing import freeze, owned
from kdlab.training.loss_buffer import LossBuffer, refuse_broken_weights
from kdlab.training.objective import Counts, Objective
from kdlab.training.setup import Parts
from kdlab.training.terms import chosen_from
from kdlab.training.timeline import Timeline
from kdlab.training.validation import Validation

Settings = Mapping[str, Any]
MakeOptimizer = Callable[[Sequence[nn.Parameter], Settings | None], Optimizer]
MakeScheduler = Callable[[Optimizer, Settings | None, int, int], tuple[LRScheduler, str]]


class Distiller(pl.LightningModule):
    """Trains the learners of a mode by the losses of its heads.

    Args:
        parts: the assembled run.
        steps_per_epoch: optimizer steps in an epoch, or in one of each phase.
        make_optimizer, make_scheduler: from (parameters, a phase's own settings or None), and
            (optimizer, settings or None, epochs, steps); the latter also returns `epoch` or `step`.
        accumulate: parts that each rank splits its share of a batch into.
        gradient_clip: the largest total norm of an optimizer's gradients.
        log_every: steps between two rows of the log.
        chunk_rows: rows whose losses are computed at once, see `kdlab.training.chunks`.
        compile: compile the networks, in place, after hooking them.
        channels_last: the memory format of networks and batches.
    """

    def __init__(
        self,
        parts: Parts,
        steps_per_epoch: int | Sequence[int],
        make_optimizer: MakeOptimizer,
        make_scheduler: MakeScheduler,
        *,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        log_every: int = 50,
        chunk_rows: ChunkRows = "auto",
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.task, self.phases, self.setups = parts.task, parts.phases, parts.setups
        self._modes = nn.ModuleList(dict.fromkeys(setup.mode for setup in parts.setups))
        self._objectives = nn.ModuleList(dict.fromkeys(setup.objective for setup in parts.setups))
        self.timeline = Timeline.of(parts.phases, steps_per_epoch)
        self.steps = 0
        self.samples = 0
        self.seconds = 0.0
        self.log_every = log_every
        self._make_optimizer, self._make_scheduler = make_optimizer, make_scheduler
        self._accumulate, self._clip, self._chunk_rows = accumulate, gradient_clip, chunk_rows
        self._compile, self._channels_last = compile, channels_last
        self._can_train = {p for p in self.parameters() if p.requires_grad}
        self._phase, self._phase_start = 0, 0
        self._stepping: list[tuple[LightningOptimizer, LRScheduler, str]] = []
        self._random: list[Any] = []
        self._restored: Mapping[str, Tensor] | None = None
        self._clock: float | None = None
        self._losses = LossBuffer(accumulate)
        students = {name for setup in parts.setups for name in setup.mode.validated()}
        self._validation = Validation(self.task, students)
        # Modes and heads keep their memories equal on every rank; DDP need not broadcast them.
        self._ddp_params_and_buffers_to_ignore = [
            f"{place}.{name}"
            for place, module in self.named_modules()
            if isinstance(module, Mode | Head)
            for name, _ in module.named_buffers(recurse=False)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch of the current phase."""
        return self.timeline.steps[self._phase]

    @property
    def mode(self) -> Mode:
        """Who teaches whom in the current phase."""
        return self.setups[self._phase].mode

    @property
    def objective(self) -> Objective:
        """The loss of a step in the current phase."""
        return self.setups[self._phase].objective

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets its current hook thirty times a step, and torch would check each value for a parameter.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # ---- before training

    def setup(self, stage: str) -> None:
        """Moves and casts the teachers, which lie outside the module tree, and freezes what does not train."""
        precision = str(self.trainer.precision)
        dtypes = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
        modes = dict.fromkeys(setup.mode for setup in self.setups)
        for mode in modes:
            mode.move(self.trainer.strategy.root_device, dtypes.get(precision))
        for network in dict.fromkeys(source.network for mode in modes for source in mode.sources):
            if self._channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
            if self._compile and stage == "fit":
                network.compile()
        self._enter_phase(self.timeline.place(self.steps))

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """The optimizer of the current phase, those of learners with their own, and the schedule of each."""
        if self.dtype in (torch.bfloat16, torch.float16):  # the networks run in half precision, losses never do
            for setup in self.setups:
                setup.objective.heads.float()
        if self._restored is not None:  # before the conversion to this precision, loading rounded it
            self.load_state_dict(self._restored)
            self._restored = None
        phase = self.phases[self._phase]
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        steps = phase.epochs * self.steps_per_epoch
        optimizers, schedules = [], []
        for settings, share in owned(self.setups[self._phase], phase, trained):
            optimizers.append(self._make_optimizer(share, settings))
            scheduler, interval = self._make_scheduler(optimizers[-1], phase.scheduler, phase.epochs, steps)
            schedules.append({"scheduler": scheduler, "interval": interval})
        return optimizers, schedules

    def on_train_start(self) -> None:
        """Restores what a checkpoint holds besides weights, just before the first batch."""
        for mode in dict.fromkeys(setup.mode for setup in self.setups):
            mode.begin(lambda: cast("Any", self.trainer).datamodule.training_part())
        self._take_optimizer()
        self._losses.to(self.device)
        if self._random:
            set_random_state(self._random[self.global_rank % len(self._random)])

    def on_train_epoch_start(self) -> None:
        """A new phase freezes, rebuilds the optimizer and wraps the module again."""
        if (place := self.timeline.place(self.steps)) != self._phase:
            self._enter_phase(place)
            strategy = self.trainer.strategy
            if isinstance(strategy, DDPStrategy):
                strategy.model = self
                strategy.configure_ddp()
            strategy.setup_optimizers(self.trainer)
            self._take_optimizer()
        self.mode.begin_epoch(self.progress())
        self._clock = time.perf_counter()

    def _take_optimizer(self) -> None:
        made = self.optimizers()
        optimizers = made if isinstance(made, list) else [made]
        configs = self.trainer.strategy.lr_scheduler_configs
        self._stepping = [
            (optimizer, config.scheduler, config.interval)
            for optimizer, config in zip(optimizers, configs, strict=True)
        ]

    def _enter_phase(self, place: int) -> None:
        phase = self.phases[place]
        self._phase, self._phase_start = place, self.timeline.start(place)
        if len(self._modes) > 1:
            for setup in self.setups:
                setup.mode.close()
            self.objective.listen(self.mode)
        freeze(self.setups[place], phase, self._can_train)

    # ---- the step

    def progress(self) -> Progress:
        """Where training stands within the current phase."""
        phase = self.phases[self._phase]
        done = self.steps - self._phase_start
        return Progress(done // self.steps_per_epoch, done, phase.epochs, max(1, phase.epochs * self.steps_per_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step over this rank's share of one batch."""
        phase, progress, world = self.phases[self._phase], self.progress(), self.trainer.world_size
        batch = self.mode.drawn(batch, progress)
        rows, labelled = self._count(self.task.labelled(self.task.targets(batch)))
        task_weight = self.objective.task_weight if phase.task_weight is None else phase.task_weight
        ask = self.mode.taught if phase.prepare and not task_weight else self.mode
        parts = [self.task.by_row(part) for part in shares(batch, self._accumulate)]
        for place, part in enumerate(parts):
            counts = Counts(rows, labelled, len(part["index"]) / (len(batch["index"]) * world))
            if self._channels_last and isinstance(part["input"], Tensor) and part["input"].ndim == 4:
                part["input"] = part["input"].contiguous(memory_format=torch.channels_last)
            chunk = rows_at_once(self._chunk_rows, len(part["target"]), self.objective.context.classes)
            with deferring(self.mode.sources, chunk is not None):
                lessons = chosen_from(ask(part, progress), phase.among)
            loss, terms = self.objective(
                lessons, counts, progress,
                heads=phase.heads, task_weight=phase.task_weight, prepare=phase.prepare, chunk=chunk,
            )  # fmt: skip
            last = place == len(parts) - 1
            with (
                nullcontext()
                if last or world == 1
                else cast("DDPStrategy", self.trainer.strategy).block_backward_sync()
            ):
                # Ranks average their gradients, while the loss is already divided by the count over all ranks.
                self.manual_backward(loss * world if world > 1 else loss)
            self._losses.add(terms, loss.detach())
        self._step()
        self.samples += len(batch["index"]) * world
        self.mode.after_step(progress)
        if self.steps % self.log_every == 0:
            self.write_losses()

    def _step(self) -> None:
        for place, (optimizer, _, _) in enumerate(self._stepping):
            if place == 0:
                optimizer.step()
            else:  # Lightning would count a step for each optimizer
                self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
            optimizer.zero_grad()
        self.steps += 1
        for _, scheduler, interval in self._stepping:
            if interval == "step" or self.between_epochs():
                scheduler.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips, after gradients were unscaled from half precision."""
        if self._clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self._clip)

    def _count(self, labelled: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """How many rows the batch has on all ranks, which need not have as many each, and how many are labelled."""
        if self.trainer.world_size == 1:
            return float(len(labelled)), labelled.sum().clamp(min=1)
        counts = torch.stack([labelled.new_full((), len(labelled), dtype=torch.long), labelled.sum()])
        dist.all_reduce(counts)
        return counts[0], counts[1].clamp(min=1)

    # ---- what is logged

    def read_losses(self) -> Tensor | None:
        """The terms since the last row. Only here does training wait for the device.

        Raises:
            DivergedError: where a term became NaN or infinite, with its name and step.
        """
        rows = self._losses.read()
        if rows is not None:
            self._losses.refuse_broken(rows, self.objective.names, self.steps, self.timeline.epochs_at)
        return rows

    def write_losses(self) -> None:
        """One row of the log: the mean of every term since the last row."""
        rows = self.read_losses()
        self._losses.clear()
        if rows is not None:
            lr = float(self._stepping[0][0].param_groups[0]["lr"])
            self.write({**self._losses.mean(rows, self.objective.names), "lr": lr})

    def write(self, row: Mapping[str, float]) -> None:
        """Passes a row to every logger, at the current step."""
        for logger in self.loggers:
            logger.log_metrics({**row, "epoch": self.epochs_done()}, self.steps)

    def epochs_done(self) -> float:
        """Epochs since the start of the run, in fractions."""
        return self.timeline.epochs_at(self.steps)

    def between_epochs(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return (self.steps - self._phase_start) % self.steps_per_epoch == 0

    def on_validation_start(self) -> None:
        """Writes the last row of an epoch before validation, so that a diverged epoch is never the best."""
        self._end_lap()

    def _end_lap(self) -> None:
        if self._clock is not None:
            self.seconds += time.perf_counter() - self._clock
            self._clock = None
        self.write_losses()
        self._refuse_broken()

    def _refuse_broken(self) -> None:
        """What the last update did to the weights: the loss shows it one step later."""
        refuse_broken_weights(self.parameters(), self.steps, self.epochs_done())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The students alone, in eval mode; no teacher runs."""
        self._validation.update(self.mode, batch)

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole set, over all ranks."""
        row = self._validation.compute(self.mode)
        self.log_dict(row, logger=False, sync_dist=self.trainer.world_size > 1)
        self.write(row)

    def on_train_epoch_end(self) -> None:
        """Where nothing validates, an epoch's last row is written here."""
        self._end_lap()

    def on_train_end(self) -> None:
        """A run stopped within an epoch also writes its last row."""
        self._end_lap()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a run needs to resume exactly, besides weights and optimizer."""
        losses = self.read_losses()
        self._refuse_broken()
        checkpoint["kdlab"] = {
            "steps": self.steps,
            "samples": self.samples,
            "phase": self._phase,
            "seconds": self.seconds + (0.0 if self._clock is None else time.perf_counter() - self._clock),
            "losses": None if losses is None else losses.cpu(),
            "random": gather_random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Runs before the optimizer is made, and decides which phase that is for."""
        own = checkpoint["kdlab"]
        self.steps, self.samples, self.seconds = own["steps"], own["samples"], own["seconds"]
        self._random = own["random"]
        self._restored = checkpoint["state_dict"]
        # The sum over ranks, so only the first rank takes it.
        if own["losses"] is not None:
            self._losses.restore(own["losses"] * (self.global_rank == 0))
        self._enter_phase(own["phase"])
