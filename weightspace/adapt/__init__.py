"""Adapt pre-trained networks by sparse changes, and merge the changes of several tasks."""

from weightspace.adapt.agreement import agreement as agreement
from weightspace.adapt.comparison import MergeRow as MergeRow
from weightspace.adapt.comparison import compare as compare
from weightspace.adapt.lora import LoRA as LoRA
from weightspace.adapt.lora import task_vectors as task_vectors
from weightspace.adapt.lota import LoTA as LoTA
from weightspace.adapt.merging import DARE as DARE
from weightspace.adapt.merging import TIES as TIES
from weightspace.adapt.merging import Merger as Merger
from weightspace.adapt.merging import Sum as Sum
from weightspace.adapt.merging import TaskArithmetic as TaskArithmetic
from weightspace.adapt.partial import LayerRatios as LayerRatios
from weightspace.adapt.partial import PartialAdapters as PartialAdapters
from weightspace.adapt.partial import UniformRatio as UniformRatio
from weightspace.adapt.peft_files import load_peft as load_peft
from weightspace.adapt.peft_files import save_peft as save_peft
from weightspace.adapt.rows import Rows as Rows
from weightspace.adapt.task_vectors import TaskVectors as TaskVectors
from weightspace.adapt.train_only import train_only as train_only
from weightspace.adapt.untie import untie as untie
