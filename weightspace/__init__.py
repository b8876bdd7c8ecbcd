"""weightspace: trained networks as data."""

from weightspace import threads as threads  # isort: skip  (must come before torch is imported)

from weightspace import align as align
from weightspace import models as models
from weightspace import symmetry as symmetry
from weightspace import tasks as tasks
from weightspace import tickets as tickets
from weightspace.align import WeightMatching as WeightMatching
from weightspace.architecture import Architecture as Architecture
from weightspace.collection import Collection as Collection
from weightspace.comparison import Comparison as Comparison
from weightspace.compress import PCA as PCA
from weightspace.errors import InputError as InputError
from weightspace.errors import LayoutMismatch as LayoutMismatch
from weightspace.errors import StorageError as StorageError
from weightspace.evaluation import MCDropout as MCDropout
from weightspace.evaluation import evaluate as evaluate
from weightspace.flow import FlowMatching as FlowMatching
from weightspace.flow import TaskRefinement as TaskRefinement
from weightspace.generate import FittedGenerator as FittedGenerator
from weightspace.generate import TicketGenerator as TicketGenerator
from weightspace.layout import Layout as Layout
from weightspace.merging import merge as merge
from weightspace.optimizers import SGD as SGD
from weightspace.optimizers import Adam as Adam
from weightspace.pattern import NM as NM
from weightspace.pattern import Channels as Channels
from weightspace.pattern import Unstructured as Unstructured
from weightspace.recipe import Augmentation as Augmentation
from weightspace.recipe import Recipe as Recipe
from weightspace.recipe import Schedule as Schedule
from weightspace.recipe import Step as Step
from weightspace.report import Report as Report
from weightspace.state_dicts import from_state_dicts as from_state_dicts
from weightspace.task import Split as Split
from weightspace.task import Task as Task
from weightspace.training import Grid as Grid
from weightspace.training import Independent as Independent
from weightspace.training import OnRay as OnRay
from weightspace.training import SharedStart as SharedStart
from weightspace.training import Trajectory as Trajectory
from weightspace.training import collect as collect
from weightspace.training import collect_on as collect_on
from weightspace.training import train as train
