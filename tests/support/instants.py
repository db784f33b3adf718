"""Kills a process at each instant of what it does: before every line that runs in the given files.

`killed_at(instant, do, files)` runs `do` in a child that is killed there, and says whether it came that far.
"""

import os
import signal
import sys
from collections.abc import Callable


def killed_at(instant: int, do: Callable[[], object], files: tuple[str, ...]) -> bool:
    """Whether a child was killed before its line number `instant` in files whose names end so; else it ended well."""
    child = os.fork()
    if child == 0:
        passed = 0

        def trace(frame, event, argument):
            nonlocal passed
            if event == "line":
                if passed == instant:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
            return trace if frame.f_code.co_filename.endswith(files) else None

        sys.settrace(trace)
        do()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL
