"""Fixtures that tests of several folders use."""

from support.killed_runs import conf  # noqa: F401
from support.postgres import postgres, server  # noqa: F401
