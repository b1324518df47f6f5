"""One run's folder as one self-contained HTML page: load -> data -> template."""

from align.report.page import write_report

__all__ = ["write_report"]
