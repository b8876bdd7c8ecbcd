"""The fixtures are in tests/fixtures.py: loading takes seconds, which a process without tests can save."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    deals_out_tests = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not deals_out_tests:
        config.pluginmanager.import_plugin("tests.fixtures")
