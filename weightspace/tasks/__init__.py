"""Tasks on real data."""

from weightspace.tasks.digits import digits as digits
