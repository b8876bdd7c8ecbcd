"""What evaluation found, as data, tables, figures and pages."""

from weightspace.report.comparison import Comparison as Comparison
from weightspace.report.pictures import PictureReport as PictureReport
from weightspace.report.report import Report as Report
from weightspace.report.results import Verdict as Verdict
