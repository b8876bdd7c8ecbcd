"""A report from its file, of networks of one task or of networks that draw."""

from pathlib import Path

from weightspace.report.pictures import PictureReport, holds_pictures
from weightspace.report.report import Report


def open_report(path: Path) -> Report | PictureReport:
    """Read report.json.

    Args:
        path: The file.

    Raises:
        StorageError: There is no such file, or it is damaged or of another version.
    """
    return PictureReport.load(path) if holds_pictures(path) else Report.load(path)
