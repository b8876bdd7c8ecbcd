"""Training many networks at once."""

from weightspace.training.collecting import collect as collect
from weightspace.training.trainer import Trainer as Trainer
