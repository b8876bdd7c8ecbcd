"""The fixtures are in tests/fixtures.py: loading takes seconds, which a process without tests can save."""

import os
import sys

import pytest

# True where pytest-xdist deals the tests out to other processes.
DEALS_OUT = "PYTEST_XDIST_WORKER" not in os.environ and any(word.startswith(("-n", "--numproc")) for word in sys.argv)

# At once, before the conftest of a folder imports the package: what is imported earlier is not checked.
pytest_plugins = [] if DEALS_OUT else ["tests.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # -n 0 runs them here
        config.pluginmanager.import_plugin("tests.fixtures")
