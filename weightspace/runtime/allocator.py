"""Memory: how much there is, and freed memory that stays with the process.

A step of training frees and asks for the same large blocks again and again. The C library hands blocks of some ten
megabytes back to the system each time, which then has to clear every page anew: that can be most of a step's time.
"""

import ctypes
import os
import sys

_TRIM, _TOP_PAD, _MMAP = -1, -2, -3  # parameters of glibc's mallopt(3)
_LARGE = 2**31 - 1


def keep() -> bool:
    """Let the C library keep freed memory for the next request; for a process that trains, not for a library to decide.

    The process then holds the most it has needed until it ends. Called by the command line; scripts may call it too.

    Returns:
        False where there is no glibc, and nothing changed.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is None:  # another C library
        return False
    return bool(change(_MMAP, _LARGE) and change(_TRIM, _LARGE) and change(_TOP_PAD, 2**26))


def main_memory() -> int:
    """Bytes of main memory of this machine."""
    if os.name != "nt":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # pyright: ignore[reportAttributeAccessIssue]
    return kilobytes.value * 1024
