"""Training many networks at once."""

from weightspace.training.collecting import collect as collect
from weightspace.training.collecting import train as train
from weightspace.training.distributed import OnRay as OnRay
from weightspace.training.distributed import collect_on as collect_on
from weightspace.training.kinds import Grid as Grid
from weightspace.training.kinds import Independent as Independent
from weightspace.training.kinds import SharedStart as SharedStart
from weightspace.training.kinds import Trajectory as Trajectory
from weightspace.training.trainer import Trainer as Trainer
