"""A PostgreSQL server of a test's own, which can be stopped and started again."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("initdb") or "none").parent]
ENDS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A server on a free port. `url`: with a password, though any is accepted."""

    def __init__(self, folder):
        self.folder = folder
        user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
        if user:
            shutil.chown(folder, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        made = [FOUND[-1] / "initdb", "-D", folder / "data", "-U", "kdlab", "-A", "trust", "--no-sync"]
        subprocess.run(made, check=True, **self.quiet)
        self.url = f"postgresql://kdlab:secret@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self):
        options = ["-p", str(self.port), "-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self.server = subprocess.Popen([FOUND[-1] / "postgres", "-D", self.folder / "data", *options], **self.quiet)
        ready = [FOUND[-1] / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False, **self.quiet).returncode:
            assert self.server.poll() is None
            time.sleep(0.05)

    def stop(self, how="immediate"):
        self.server.send_signal(ENDS[how])
        self.server.wait()

    def out(self, seconds, how):
        """An outage."""
        self.stop(how)
        time.sleep(seconds)
        self.start()


@pytest.fixture
def server():
    """A PostgreSQL server of its own."""
    if not (FOUND[-1] / "initdb").exists():
        pytest.skip("PostgreSQL's binaries are not installed")
    folder = Path(tempfile.mkdtemp())
    found = Postgres(folder)
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder)


@pytest.fixture
def postgres(server):
    """Its URL."""
    return server.url
