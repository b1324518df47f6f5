"""What `align show` prints as one self-contained HTML page."""

from pathlib import Path

from align.files import write_atomic
from align.report.page import environment
from align.run.views import View


def write_page(view: View, path: Path, title: str) -> None:
    """Write a view as a page. Texts of the data reach it escaped."""
    write_atomic(path, environment().get_template("show.html").render(view=view, title=title))
