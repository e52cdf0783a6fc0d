"""The one place where a study calls the reports."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_REPORT: Final = "plasticity.training.reports.report"


def make_page(study: Path, folder: Path) -> Path | None:
    """Makes the report of a study; returns its page, None where pages cannot be made.

    Args:
        study: The study's folder.
        folder: Of the report.

    Raises:
        ValueError: If there is nothing to report.
    """
    if find_spec(_REPORT) is None:
        return None
    page: Path = import_module(_REPORT).report([study], folder)
    return page
