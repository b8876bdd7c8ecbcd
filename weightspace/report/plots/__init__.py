"""Figures. Each function returns a matplotlib figure and shows or saves nothing."""

from weightspace.report.plots.connectivity import bars as bars
from weightspace.report.plots.connectivity import instability as instability
from weightspace.report.plots.connectivity import lines as lines
from weightspace.report.plots.connectivity import matrices as matrices
from weightspace.report.plots.other_metrics import plane_of as plane_of
from weightspace.report.plots.other_metrics import scores as scores
from weightspace.report.plots.predictive import comparison as comparison
from weightspace.report.plots.predictive import confusion as confusion
from weightspace.report.plots.predictive import reliability as reliability
from weightspace.report.plots.predictive import shift as shift
from weightspace.report.plots.results import accuracy as accuracy
from weightspace.report.plots.results import layer_density as layer_density
from weightspace.report.plots.results import plane as plane
from weightspace.report.plots.space import codes as codes
from weightspace.report.plots.space import filters as filters
from weightspace.report.plots.space import rows_of_pictures as rows_of_pictures
from weightspace.report.plots.space import spectrum as spectrum
