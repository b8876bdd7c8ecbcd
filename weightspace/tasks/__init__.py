"""Tasks on real data, and your own."""

from weightspace.networks.outputs import OUTPUT_KINDS as OUTPUT_KINDS
from weightspace.networks.outputs import Binary as Binary
from weightspace.networks.outputs import Classes as Classes
from weightspace.networks.outputs import LossOnly as LossOnly
from weightspace.networks.outputs import OutputKind as OutputKind
from weightspace.networks.outputs import Regression as Regression
from weightspace.tasks.cifar10 import cifar10 as cifar10
from weightspace.tasks.data import Data as Data
from weightspace.tasks.data import DatasetSplit as DatasetSplit
from weightspace.tasks.data import OwnData as OwnData
from weightspace.tasks.digits import digits as digits
from weightspace.tasks.from_data import from_dataset as from_dataset
from weightspace.tasks.from_data import from_own_data as from_own_data
from weightspace.tasks.from_data import from_tensors as from_tensors
from weightspace.tasks.metrics import METRICS as METRICS
from weightspace.tasks.metrics import Metric as Metric
from weightspace.tasks.mnist import fashion_mnist as fashion_mnist
from weightspace.tasks.mnist import mnist as mnist
from weightspace.tasks.own_loop import LoopTask as LoopTask
from weightspace.tasks.own_loop import from_loop as from_loop
from weightspace.tasks.pictures import draw as draw
from weightspace.tasks.pictures import grid as grid
from weightspace.tasks.pictures import pictures as pictures
from weightspace.tasks.tabular import breast_cancer as breast_cancer
from weightspace.tasks.tabular import iris as iris
from weightspace.tasks.tabular import wine as wine
