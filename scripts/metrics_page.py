"""Write docs/metrics.md from the table of metrics: python scripts/metrics_page.py"""

from __future__ import annotations

from pathlib import Path

from align import metrics

if __name__ == "__main__":
    path = Path(__file__).parents[1] / metrics.PAGE
    path.write_text(metrics.page())
    print(path)
