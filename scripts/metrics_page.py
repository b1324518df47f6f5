"""Write docs/metrics.md from the table of metrics: python scripts/metrics_page.py"""

from __future__ import annotations

from pathlib import Path

from align import metrics

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def page() -> str:
    """Format the documentation's page of metrics."""
    return f"""\
# Metrics

Every figure that a run writes, made from the table in `align/metrics.py` by `python scripts/metrics_page.py`.

- *level*: `update` = of one optimizer step; `rollout` = of the responses that the step learns from, repeated on each
  of its updates; `run` = cumulative; `evaluation` = of `evaluation.json` (there without `eval/` and nested at each
  `/`) and of the records with a `phase` in `log_history.jsonl`.
- *reduction*: over micro-batches and ranks; a mean is kept as sum and count until it is written.
- *methods*: whose records hold it.
- `*` stands for any name: a part of the reward, a kind of perturbation, a judge.

`delta` of `evaluation.json` holds {metrics.DELTA}.

{markdown()}"""


def markdown() -> str:
    """Format the table as Markdown, one line a metric."""
    head = "| metric | unit | level | reduction | methods | definition |\n| --- | --- | --- | --- | --- | --- |\n"
    rows = (
        f"| `{m.name}` | {m.unit} | {m.level} | {m.reduction} | {', '.join(m.methods)} | "
        f"{m.definition.replace('|', chr(92) + '|')} |\n"
        for m in metrics.METRICS.values()
    )
    return head + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
