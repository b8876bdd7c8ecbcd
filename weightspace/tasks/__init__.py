"""Tasks on real data."""

from weightspace.tasks.digits import digits as digits
from weightspace.tasks.mnist import fashion_mnist as fashion_mnist
from weightspace.tasks.mnist import mnist as mnist
