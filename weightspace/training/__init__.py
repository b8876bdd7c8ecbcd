"""Training many networks at once."""

from weightspace.training.collect import collect as collect
from weightspace.training.collect import train as train
from weightspace.training.distributed import OnRay as OnRay
from weightspace.training.distributed import collect_on as collect_on
from weightspace.training.in_shards import find_on as find_on
from weightspace.training.in_shards import train_on as train_on
from weightspace.training.last_layer import LastLayer as LastLayer
from weightspace.training.measured import measured as measured
from weightspace.training.plans import Grid as Grid
from weightspace.training.plans import Independent as Independent
from weightspace.training.plans import SharedStart as SharedStart
from weightspace.training.plans import Trajectory as Trajectory
from weightspace.training.trainer import Trainer as Trainer
