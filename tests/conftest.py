"""The fixtures are in tests/fixtures.py: loading takes seconds, which a process without tests can save."""

import os
import signal
import sys

import pytest

# A process in the background, or under nohup, begins with signals ignored, and so do those that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# True where pytest-xdist deals the tests out to other processes.
DEALS_OUT = "PYTEST_XDIST_WORKER" not in os.environ and any(word.startswith(("-n", "--numproc")) for word in sys.argv)

# At once, before the conftest of a folder imports the package: what is imported earlier is not checked.
pytest_plugins = [] if DEALS_OUT else ["tests.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # -n 0 runs them here
        config.pluginmanager.import_plugin("tests.fixtures")
