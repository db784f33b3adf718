"""A run that was killed at any step and resumed ends with the numbers of a run that was not."""

import signal

import pytest

from support.killed_runs import COMMON, numbers, only_run, train

CASES = {
    "at the first step": (0, []),
    "within an epoch": (20, []),
    "at an epoch's last, smaller batch": (31, []),
    "at an epoch's first step": (32, []),
    "with only an epoch's last, smaller batch to go": (32, ["trainer.checkpoint_every_n_steps=31"]),
    "between two checkpoints within an epoch": (24, ["trainer.checkpoint_every_n_steps=7"]),
    "in the second phase": (20, ["loss=[kd,fitnet]", "loss.heads.fitnet.weight=1",
                                 "+loss.heads.fitnet.first={epochs:1,train:body,stays:true}"]),
}  # fmt: skip


@pytest.mark.parametrize("case", [*CASES][1:2] + [pytest.param(c, marks=pytest.mark.slow) for c in CASES
                                                  if c != "within an epoch"])  # fmt: skip
def test_a_killed_and_resumed_run_ends_with_the_numbers_of_one_that_was_not(case, tmp_path, conf):
    stop, extra = CASES[case]
    home = tmp_path / "home"
    overrides = ["--config-dir", str(conf), *COMMON, *extra]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    uninterrupted = train(whole, home, overrides)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    died = train(killed, home, overrides, stop=stop)
    assert died.returncode == -signal.SIGKILL
    run = only_run(killed)
    assert not (run / "result.json").exists()
    resumed = train(killed, home, [f"resume={run}", "allow=[support]"])
    assert resumed.returncode == 0, resumed.stderr
    assert only_run(killed) == run
    assert numbers(run) == numbers(only_run(whole))


def test_a_complete_run_is_not_resumed_and_other_keys_are_not_mixed_in(tmp_path):
    from kdlab.train import main

    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    assert main([f"resume={run}"]) == 2
    (run / "config.yaml").write_text("seed: 0\n")
    assert main([f"resume={run}", "seed=3"]) == 2
    (run / "result.json").write_text("{}")
    assert main([f"resume={run}"]) == 2
