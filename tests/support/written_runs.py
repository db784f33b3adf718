"""Writes the folders of runs and studies without training anything, for tests of what reads them."""

import csv
import json
from functools import cache

import optuna
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from kdlab.run.derive import compose_run
from kdlab.study.storage import open_storage

SPACE = {
    "loss.temperature": FloatDistribution(1.0, 16.0, log=True),
    "model.width": CategoricalDistribution((0.1, 0.2)),
}
MACS = {0.1: 10_000, 0.2: 30_000}


@cache
def composed(*overrides):
    return compose_run(["model=mobilenet", "loss=kd", "logger=csv", *overrides])


def row(last, best=None, *, cost=1000, validation=None):
    tested = {"last": {"accuracy": last}, **({} if best is None else {"best": {"accuracy": best}})}
    scored = (
        None if validation is None else {"metric": "accuracy", "best": validation, "best_epoch": 2, "last": validation}
    )
    return {
        "test": tested, "validation": scored, "parameters": cost, "multiply_accumulates": 10 * cost,
        "latency_ms": 1.0, "bytes": 4 * cost, "epochs": 3.0, "seconds": 1.5, "samples_per_second": 100.0,
    }  # fmt: skip


def write_run(folder, seed, distilled, alone=None, teacher=None, overrides=(), **changes):
    """A run that says to have come to these test accuracies, (last, best) each, with curves of three epochs."""
    folder.mkdir(parents=True)
    config = composed(*overrides).replace(seed=seed, name=folder.name).plain()
    result = {
        "version": 1, "status": "completed", "name": folder.name, "key": f"{hash(folder.name) % 16**8:064x}", "n": 1,
        "seeds": {"run": seed, "teachers": [0], "split": 0}, "names": config["names"], "primary": "accuracy",
        "directions": {"accuracy": "max"}, "titles": {"accuracy": "accuracy"},
        "teacher": teacher and row(*teacher, cost=50_000, validation=0.99),
        "alone": alone and row(*alone, validation=0.9), "student": row(*distilled, validation=0.95), "chain": [],
        "gap_closed": {"last": None, "best": None},
        "data": {"fingerprint": "f" * 64, "train": 1000, "validation": 400, "test": 400},
        "versions": {"python": "3.11", "torch": "2.13"}, "commit": "c" * 40,
        "hardware": {"cpu": "a CPU", "cores": 2, "threads": 1, "gpu": None, "gpus": 0},
        **changes,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "result.json").write_text(json.dumps(result))
    write_curve(folder / "metrics.csv", [0.2, 0.8, 0.95])
    if alone:
        (folder / "alone").mkdir()
        write_curve(folder / "alone" / "metrics.csv", [0.1, 0.7, 0.9])
    return folder


def write_curve(file, values):
    """metrics.csv as runs leave it: rows of losses, and rows of what was validated."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["step", "epoch", "loss/task", "loss/kd", "loss/total", "lr", "validation/accuracy"])
        for epoch, value in enumerate(values, start=1):
            writer.writerow([10 * epoch, float(epoch), 1 / epoch, 9 / epoch, 8 / epoch, 0.1, ""])
            writer.writerow([10 * epoch, float(epoch), "", "", "", "", value])


OBJECTIVES = [["validation.accuracy", "maximize"], ["student.multiply_accumulates", "minimize"]]


def finished_study(*curves, metric="validation.accuracy", direction="maximize"):
    """Complete trials, each (cost, curve) and perhaps how it breaks a constraint, as a study of ours leaves them."""
    objectives = [[metric, direction], OBJECTIVES[1]]
    study = optuna.create_study(directions=[direction, "minimize"])
    study.set_user_attr("objectives", objectives)
    for cost, curve, *broken in curves:
        trial = study.ask()
        for violation in broken:
            trial.set_constraint("validation.calibration_error <= 0.1", violation)
        trial.set_user_attr("metrics", {"student.multiply_accumulates": cost})
        trial.set_user_attr("epochs", len(curve))
        for done, value in enumerate(curve, 1):
            trial.set_user_attr(f"curve/{done}", value)
        study.tell(trial, [curve[-1], cost])
    return study


class WrittenStudy:
    """A study of temperature and width, in its folder; see `kdlab.study.spec`.

    Args:
        folder: an empty one; its name is the study's.
        arm: the option that its trials are of, None where nothing is compared.
        cost: multiply-accumulates are an objective, too.
    """

    def __init__(self, folder, arm=None, cost=True):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.yaml").write_text(yaml.safe_dump({"name": folder.name, "storage": None}))
        objectives = OBJECTIVES[: 1 + cost]
        self.study = optuna.create_study(
            storage=open_storage(str(folder / "journal.log")).optuna,
            study_name=folder.name if arm is None else f"{folder.name}/{arm}",
            directions=[direction for _, direction in objectives],
        )
        for key, value in {"objectives": objectives, "curve": "validation.accuracy", "arm": arm}.items():
            self.study.set_user_attr(key, value)

    def add(self, temperature, width, accuracies, *, state=TrialState.COMPLETE, violation=None, **attributes):
        """A trial whose curve has these accuracies."""
        curve = dict(enumerate(accuracies, start=1))
        metrics = {"student.multiply_accumulates": MACS[width]}
        if accuracies:
            metrics["validation.accuracy"] = accuracies[-1]
        one = len(self.study.directions) == 1
        values = [accuracies[-1], MACS[width]][: 2 - one] if state == TrialState.COMPLETE else None
        self.study.add_trial(optuna.trial.create_trial(
            state=state,
            params={"loss.temperature": temperature, "model.width": width},
            distributions=SPACE,
            values=values,
            intermediate_values=curve if one else {},
            constraints={} if violation is None else {"student.parameters <= 2000": violation},
            user_attrs={
                "metrics": metrics, "epochs": 3, **attributes,
                **({} if one else {f"curve/{epoch}": value for epoch, value in curve.items()}),
            },
        ))  # fmt: skip


def write_final(folder, settings):
    """final.json, and a run for each seed of each setting: {name: (against, {seed: (distilled, alone)})}."""
    described = []
    for name, (against, by_seed) in settings.items():
        places = []
        for seed, (distilled, alone) in by_seed.items():
            place = f"final/{len(places):04d}-{name}-seed{seed}"
            write_run(folder / place, seed, (distilled, distilled), (alone, alone), (0.99, 0.99))
            places.append(place)
        described.append({"name": name, "against": against, "folders": places})
    (folder / "final.json").write_text(json.dumps({"settings": described, "missing": []}))
