"""The folder of a run, `RUNS/DATE-NAME-ID`: one for each run, and the same one for all processes of one launch."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import yaml

from kdlab.config.schema import RunConfig
from kdlab.core.distributed import processes
from kdlab.core.errors import UsageError
from kdlab.core.files import write_text

FOLDER = "KDLAB_RUN"
"""The environment variable that gives the processes that a run starts its folder."""


def new_folder(config: RunConfig) -> Path:
    """A new folder for a run.

    Ranks that a launcher started cannot tell each other its name before they train. So they derive it from what they
    share, the launch and the config, and the first one makes it. A process that is alone never shares a folder.

    Raises:
        UsageError: where the ranks would join an earlier launch, or follow a link.
    """
    if given := os.environ.get(FOLDER):
        return Path(given)
    config = named(config)
    runs = Path(config.runs)
    day = time.localtime(int(os.environ.get("SLURM_JOB_START_TIME", time.time())))
    stem = f"{time.strftime('%Y%m%d', day)}-{config.name}"
    runs.mkdir(parents=True, exist_ok=True)
    if _is_rank(config):
        launch = _job() or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        digest = hashlib.sha256(_text(config).encode()).hexdigest()[:6]
        return _joined(runs / f"{stem}-{launch}-{digest}", config)
    for name in _names(stem):
        try:
            (runs / name).mkdir()
            return runs / name
        except FileExistsError:
            continue
    raise AssertionError("there is always another name")


def named(config: RunConfig) -> RunConfig:
    """A run that has a name: its own, else made of its choices, `mobilenet-kd-digits-seed0`."""
    names = config.names
    loss = names.loss if config.distils else ""
    mode = "" if names.mode == "offline" else names.mode
    made = "-".join(part for part in (names.model, loss, mode, names.data, f"seed{config.seed}") if part)
    return config.replace(name=config.name or made.replace("/", "-"))


def write_config(folder: Path, config: RunConfig) -> None:
    """Writes `config.yaml`; an existing one stays."""
    if not (file := folder / "config.yaml").is_file():  # ranks write the same content in turn
        write_text(file, _text(config))


def _text(config: RunConfig) -> str:
    return yaml.safe_dump(named(config).plain(), sort_keys=False)


def _is_rank(config: RunConfig) -> bool:
    """Whether a launcher started this process as one of several that train the run."""
    trainer, environment = config.trainer, os.environ
    started = max(int(environment.get("SLURM_NTASKS") or 1), int(environment.get("WORLD_SIZE") or 1))
    return started > 1 and processes(trainer.accelerator, trainer.devices, trainer.num_nodes) > 1


def _job() -> str | None:
    """The step of a job of SLURM, and how often the job was requeued."""
    environment = os.environ
    if (job := environment.get("SLURM_JOB_ID")) is None:
        return None
    step = f".{environment['SLURM_STEP_ID']}" if "SLURM_STEP_ID" in environment else ""
    return f"{job}{step}-{environment.get('SLURM_RESTART_COUNT', '0')}"


def _names(stem: str) -> Iterator[str]:
    if (job := _job()) is None:
        while True:
            yield f"{stem}-{secrets.token_hex(3)}"
    yield f"{stem}-{job}"
    yield from (f"{stem}-{job}-{number}" for number in count(2))


def _joined(folder: Path, config: RunConfig) -> Path:
    try:
        folder.mkdir()
    except FileExistsError as error:
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link, which a new run does not follow; remove it") from error
        written = folder / "config.yaml"
        begun = any((folder / name).exists() for name in ("result.json", "metrics.csv", "checkpoints"))
        if begun or (written.exists() and written.read_text() != _text(config)):
            raise UsageError(
                f"{folder} is of an earlier launch; type name=NAME, or torchrun --rdzv-id=ID, with another each time"
            ) from error
    return folder
