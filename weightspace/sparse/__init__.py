"""Sparse networks that run fast."""

from weightspace.sparse.live import LiveNetwork as LiveNetwork
from weightspace.sparse.rows import Rows as Rows
