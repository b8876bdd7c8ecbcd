"""Adapt pre-trained networks by sparse changes, and merge the changes of several tasks."""

from weightspace.adapt.comparison import MergeRow as MergeRow
from weightspace.adapt.comparison import compare as compare
from weightspace.adapt.lota import LoTA as LoTA
from weightspace.adapt.merging import DARE as DARE
from weightspace.adapt.merging import TIES as TIES
from weightspace.adapt.merging import Merger as Merger
from weightspace.adapt.merging import Sum as Sum
from weightspace.adapt.merging import TaskArithmetic as TaskArithmetic
from weightspace.adapt.task_vectors import TaskVectors as TaskVectors
