"""Evaluation: how good networks are, how sure, and how new."""

from weightspace.evaluation.alignment_report import AlignmentReport as AlignmentReport
from weightspace.evaluation.alignment_report import alignment_report as alignment_report
from weightspace.evaluation.collection_page import CollectionPage as CollectionPage
from weightspace.evaluation.collection_page import collection_page as collection_page
from weightspace.evaluation.dropout import MCDropout as MCDropout
from weightspace.evaluation.evaluate import evaluate as evaluate
from weightspace.evaluation.pictures import evaluate_pictures as evaluate_pictures
