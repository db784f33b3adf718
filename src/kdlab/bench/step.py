"""The platform's training step against a loop written by hand over the same two networks.

Both start from the same weights and train on the same batches, so they must end with the same weights: this is
checked afterwards, and shows that both did the same work. The hand-written loop has batches prepared on the
device, the teacher in eval mode without gradients, no logging and no saving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from kdlab.bench.interleave import PairedTimes, Throttle, TimedLoop, alternate
from kdlab.bench.workload import Workload, platform_loop
from kdlab.config.schema import RunConfig
from kdlab.core.knowledge import Batch
from kdlab.networks.weights import StateDict
from kdlab.run.builder import assemble


def time_step(workload: Workload) -> tuple[PairedTimes, float]:
    """Times the platform against the hand-written loop.

    Returns:
        The times, and the largest difference between their final weights.
    """
    config, device = workload.config("loss=kd"), workload.device
    data = workload.data(config)
    epoch = data.steps_per_epoch(workload.batch_size)
    loader = data.train_loader(workload.batch_size, config.seed, device=device)
    batches = list(islice(loader, workload.total))
    with TemporaryDirectory() as folder:
        ours = TimedLoop(platform_loop(config, data, Path(folder)))
        theirs = TimedLoop(by_hand(config, batches, device, epoch))
        measured = alternate(ours, theirs, workload.blocks, workload.steps)
        one, other = ours.finish().weights, theirs.finish()
    return measured, max(float((one[name].cpu() - other[name]).abs().max()) for name in other)


def by_hand(
    config: RunConfig, batches: Sequence[Batch], device: torch.device, epoch: int
) -> Callable[[Throttle], StateDict]:
    """Distillation by Hinton et al. as written without a platform; returns the student's weights.

    Args:
        config: of the networks, optimizer and loss.
        batches: prepared in advance.
        device: where they are.
        epoch: steps over which the learning rate falls.
    """
    mode = assemble(config).mode
    student, teacher = mode.learners[0], mode.teachers[0].network
    precision = config.trainer.precision
    dtype = torch.float64 if precision == "64-true" else torch.float32
    layout = torch.channels_last if config.trainer.channels_last else torch.contiguous_format
    soft_weight, hard_weight, T = config.loss.alpha, config.loss.task_weight, config.loss.temperature
    assert soft_weight is not None
    assert T is not None

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(dtype=dtype, memory_format=layout)

    def loop(throttle: Throttle) -> StateDict:
        for network in (student, teacher):
            network.to(device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
        student.train()
        teacher.eval()
        settings = {key: value for key, value in config.optimizer.items() if key != "_target_"}
        optimizer = SGD(student.parameters(), **settings)
        scheduler = CosineAnnealingLR(optimizer, epoch)
        for batch in throttle([{**batch, "input": place(batch["input"])} for batch in batches]):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                with torch.no_grad():
                    soft = teacher(batch["input"])
                logits = student(batch["input"])
            logits, soft = logits.to(dtype), soft.to(dtype)
            hard_loss = cross_entropy(logits, batch["target"])
            soft_loss = kl_div(
                (logits / T).log_softmax(1), (soft / T).log_softmax(1), reduction="batchmean", log_target=True
            )
            loss: Tensor = hard_weight * hard_loss + soft_weight * T**2 * soft_loss
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            optimizer.step()
            scheduler.step()
        return {name: value.float().cpu() for name, value in student.state_dict().items()}

    return loop
