import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from support.relation_rank import remembered


def test_every_rank_remembers_what_all_ranks_saw(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.relation_rank", str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    first, second = (json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in processes)
    assert first == second
    torch.testing.assert_close([torch.tensor(x) for x in first], [torch.tensor(x) for x in remembered(0, 1)])
