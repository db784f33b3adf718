"""How a run is trained: what its phases and ramps ask of the processes that share it."""

import pytest

from kdlab.run.builder import assemble
from kdlab.run.derive import compose_run
from kdlab.run.fit import _strategy
from support.tiny_runs import TINY


@pytest.mark.parametrize(
    ("overrides", "silent"),
    [([], False), (["loss.alpha=1"], True), (["loss=dkd"], False), (["loss=reviewkd"], True),
     (["loss=reviewkd", "loss.heads.reviewkd.ramp=null"], False)],
)  # fmt: skip
def test_processes_look_for_silent_parameters_where_a_loss_is_silent_if_only_at_first(overrides, silent):
    config = compose_run([*TINY, *overrides, "trainer=ddp", "trainer.devices=2"])
    expected = "ddp_find_unused_parameters_true" if silent else "ddp"
    assert _strategy(config.trainer, assemble(config, samples=64)) == expected
