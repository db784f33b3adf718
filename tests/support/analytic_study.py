"""A study whose trials compute a formula instead of training: run as a command, in place of `python -m kdlab.sweep`.

What goes wrong is told by the environment, as `NAME=number of a trial`: DIE kills that trial's process, once; HANG
keeps it from ending; RAISE lets it fail, every time; FULL=SETTING a refit's. UNPREPARED: there is no teacher.
SECONDS is how long each trial takes. BOARD: each has a W&B run, offline.
"""

import os
import signal
import sys
import time

from kdlab.core.errors import UsageError
from kdlab.study.process_pool import Epoch, Known, TrialRunner

EPOCHS = 4


class Analytic(TrialRunner):
    """Best are alpha 0.5 and temperature 5, in refits 4, where it is published; a wider student costs more."""

    def check(self, plan):
        pass

    def prepare(self, plan):
        if "UNPREPARED" in os.environ:
            raise UsageError("teacher: it cannot be trained")

    def trial(self, line, plan, assignment):
        number = int(assignment.folder.name.rsplit("-", 1)[-1])
        with (plan.folder / "executed").open("a") as log:
            log.write(f"{number}\n")
        if "BOARD" in os.environ:
            self.board(assignment)
        point = dict(override.split("=", 1) for override in assignment.overrides)
        temperature, alpha = float(point["loss.temperature"]), float(point.get("loss.alpha", 0.5))
        width = float(point.get("model.width", 0.2))
        accuracy = 1 - 0.01 * abs(temperature - 5) - 0.1 * abs(alpha - 0.5) - 0.02 / width
        costs = {"student.parameters": 1000 * width, "student.multiply_accumulates": 10000 * width}
        stop = line.stop(Known(costs, EPOCHS))
        done = 0
        while done < EPOCHS and not stop:
            time.sleep(float(os.environ.get("SECONDS", 0)) / EPOCHS)
            done += 1
            stop = line.stop(Epoch(done, accuracy * done / EPOCHS))
            self.misbehave(plan, number)
        return {"validation.accuracy": accuracy * done / EPOCHS, **costs}

    def board(self, assignment):
        from kdlab.config.schema import LoggerConfig
        from kdlab.run.loggers import wandb_run

        settings = LoggerConfig(wandb=True, project="kdlab")
        about = {"name": assignment.name, "tags": [], "job": "trial", "group": None, "directions": {}}
        with wandb_run(assignment.folder, settings, {"overrides": list(assignment.overrides)}, **about):
            pass

    def misbehave(self, plan, number):
        if os.environ.get("RAISE") == str(number):
            raise RuntimeError("no good")
        if os.environ.get("HANG") == str(number):
            signal.pause()
        if os.environ.get("DIE") == str(number):
            os.kill(os.getpid(), signal.SIGKILL)

    def refit(self, line, plan, assignment):
        if os.environ.get("FULL", "nothing") in assignment.name:
            raise OSError("disk full")
        point = dict(override.split("=", 1) for override in assignment.overrides)
        accuracy = 1 - 0.01 * abs(float(point["loss.temperature"]) - 4) + 0.001 * int(point["seed"])
        row = {"accuracy": accuracy}
        return {"test": row, "teacher": row, "alone": row, "parameters": 1000, "multiply_accumulates": 10000}

    def publish(self, plan, final):
        pass


if __name__ == "__main__":
    from kdlab.sweep import main

    sys.exit(main(sys.argv[1:], work=Analytic))
