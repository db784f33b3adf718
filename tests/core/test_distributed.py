"""How many processes a run has follows from its trainer; alone, nothing is gathered."""

import pytest
import torch

from kdlab.core.distributed import gathered, own_share, processes


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [(1, 1, 1), (4, 1, 4), (2, 3, 6), ([0, 3], 1, 2), ([1], 2, 2), ("auto", 1, 1), ("auto", 2, 2)],
)
def test_processes_are_devices_times_nodes(devices, nodes, expected):
    assert processes("cpu", devices, nodes) == expected


@pytest.mark.parametrize(("found", "expected"), [(4, 4), (0, 1)])
def test_auto_is_every_accelerator_that_there_is(found, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: found)
    assert processes("auto", "auto", 1) == expected


def test_a_process_alone_keeps_its_rows():
    rows = torch.arange(6.0).reshape(3, 2)
    assert gathered(rows) is rows
    assert own_share(rows) is rows
