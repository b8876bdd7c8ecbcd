"""Evaluation: how good networks are, how sure, and how new."""

from weightspace.evaluation.alignment import AlignmentReport as AlignmentReport
from weightspace.evaluation.alignment import alignment_report as alignment_report
from weightspace.evaluation.dropout import MCDropout as MCDropout
from weightspace.evaluation.run import evaluate as evaluate
