"""Experiments: one script a question; README.md lists them."""

import logging
import multiprocessing
import sys

# Scripts say what they do: by bars on a terminal, and elsewhere by lines of the library's log. Workers say nothing.
is_script = multiprocessing.parent_process() is None
if is_script and sys.stderr is not None and not sys.stderr.isatty() and not logging.getLogger().handlers:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("weightspace").setLevel(logging.INFO)
