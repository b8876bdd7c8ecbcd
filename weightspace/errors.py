"""Errors a user can cause and mend. The command line prints these without a traceback.

Each message says what was got, what was expected and how to fix it.
"""


class InputError(ValueError):
    """Something given to weightspace cannot be used as it is."""


class LayoutMismatch(InputError):
    """Networks, vectors or files that belong to another layout (other tensor names or shapes)."""


class StorageError(InputError):
    """A folder or file that is missing, unfinished, damaged, foreign, or not to be overwritten."""
