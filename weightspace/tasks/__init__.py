"""Tasks on real data."""

from weightspace.tasks.cifar10 import cifar10 as cifar10
from weightspace.tasks.digits import digits as digits
from weightspace.tasks.from_data import from_dataset as from_dataset
from weightspace.tasks.from_data import from_tensors as from_tensors
from weightspace.tasks.mnist import fashion_mnist as fashion_mnist
from weightspace.tasks.mnist import mnist as mnist
from weightspace.tasks.tabular import breast_cancer as breast_cancer
from weightspace.tasks.tabular import iris as iris
from weightspace.tasks.tabular import wine as wine
