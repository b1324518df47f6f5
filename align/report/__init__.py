"""Runs as one self-contained HTML page: load -> arms -> tables, curves, completions -> template."""

from align.report.page import write_report

__all__ = ["write_report"]
