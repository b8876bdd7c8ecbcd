"""Workers of verbs that can run in several processes, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from weightspace.cli.inputs import Common
from weightspace.errors import InputError
from weightspace.runtime.executor import Executor
from weightspace.runtime.processes import processes
from weightspace.training import OnRay


@contextmanager
def workers_of(workers: int, ray: bool, verb: str, common: Common) -> Iterator[Executor | None]:
    """The executor that a command asked for; None is this process.

    Args:
        workers: Number of processes on this machine.
        ray: Whether a Ray cluster does the work instead.
        verb: The verb, for messages.
        common: Options that mean the same in every verb.

    Raises:
        InputError: There are no workers, or they are to use a card.
    """
    if workers < 1:
        raise InputError(f"--workers must be at least 1, got {workers}")
    if not ray and workers == 1:
        yield None
        return
    common.only_cpu(f"{verb} --workers")
    if ray:
        yield OnRay()
        return
    with processes(workers) as pool:
        yield pool


def parts_for(workers: int, networks: int) -> int:
    """How many parts the work is cut into: a few for each worker, so that all end at about the same time.

    Args:
        workers: Number of processes; 1 on a cluster, whose size is not known.
        networks: Number of networks.
    """
    return max(1, min(4 * workers if workers > 1 else 8, networks))
