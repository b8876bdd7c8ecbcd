"""Evaluation: how good networks are, how sure, and how new."""

from weightspace.evaluation.run import evaluate as evaluate
