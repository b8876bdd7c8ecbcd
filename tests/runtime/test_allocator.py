"""Memory that stays with the process: counted in page faults, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys, torch
from weightspace.runtime import allocator
if "keep" in sys.argv:
    assert allocator.keep()
x = torch.ones(2**23)  # 32 MiB, 8192 pages
for _ in range(3):
    y = x + 1; del y
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    y = x + 1; del y
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", _SCRIPT, *words], capture_output=True, text=True, env=clean, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert faults("keep") < faults() / 4  # by default every page is fetched anew
