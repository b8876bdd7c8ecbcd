"""How a network is trained: steps, schedules, optimisers."""

from weightspace.recipes.by_length import ByLength as ByLength
from weightspace.recipes.optimizers import SGD as SGD
from weightspace.recipes.optimizers import Adam as Adam
from weightspace.recipes.recipe import Augmentation as Augmentation
from weightspace.recipes.recipe import Recipe as Recipe
from weightspace.recipes.schedule import Schedule as Schedule
from weightspace.recipes.step import Step as Step
