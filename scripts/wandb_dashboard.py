"""The project's dashboards at Weights & Biases: `python scripts/wandb_dashboard.py --entity TEAM --project align`.

Four saved views: KL and advantage, sparse against dense, group sizes, the reward-KL frontier. `--only NAME` builds one.
Every call makes new views; delete old ones in the browser. Needs `pip install 'align[dashboards]'` and a login.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

KL_AND_ADVANTAGE = {
    "KL to the reference": ("kl/per_response_k1", "kl/per_response_k3", "kl/coef", "policy/approx_kl"),
    "Advantage and critic": (
        *("advantage/mean", "advantage/std", "advantage/min", "advantage/max"),
        *("value/explained_variance", "value/mean", "value/loss"),
    ),
    "Reward and responses": ("reward/score_mean", "reward/total_mean", "response/length_mean", "response/eos_rate"),
    "Policy": ("policy/entropy", "policy/clip_fraction", "policy/ratio_max", "policy/grad_norm"),
}
COMPARED = ("reward/score_mean", "kl/per_response_k1", "advantage/std", "policy/entropy", "response/length_mean")
GROUPS = ("group/zero_std_fraction", *COMPARED)
OUTCOMES = (
    *("after/reward/gold_mean", "after/reward/proxy_mean", "after/win_rate/mean", "after/kl_per_response"),
    *("after/forgetting_perplexity", "after/verbosity/mean_tokens"),
)
KL = "kl_per_response"
FRONTIER = ("reward/gold_mean", "reward/proxy_mean", "win_rate/mean", "forgetting_perplexity")


def dashboards(entity: str, project: str) -> dict[str, Any]:
    """The views by short name, unsaved."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def lines(names: Sequence[str], group: str | None = None) -> list[Any]:
        seeds: dict[str, Any] = {}
        if group is not None:  # a line per value, seeds as its mean and range
            seeds = {"groupby": wr.Config(group), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        return [wr.LinePlot(title=name, x="step", y=[name], **seeds) for name in names]

    def bars(group: str) -> list[Any]:
        spread: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
        return [wr.BarPlot(title=name, metrics=[name], groupby=wr.Config(group), **spread) for name in OUTCOMES]

    def view(name: str, sections: dict[str, list[Any]], group: str | None = None) -> Any:
        made = [ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()]
        grouped = ws.RunsetSettings(groupby=[ws.Config(group)] if group else [])
        settings = ws.WorkspaceSettings(x_axis="step")
        return ws.Workspace(
            entity=entity, project=project, name=name, sections=made, settings=settings, runset_settings=grouped
        )

    def compared(name: str, group: str, curves: Sequence[str]) -> Any:
        return view(name, {"Training": lines(curves, group), "How it ended": bars(group)}, group)

    ends = [
        wr.ScatterPlot(title=f"{y} against KL", x=wr.SummaryMetric(f"after/{KL}"), y=wr.SummaryMetric(f"after/{y}"))
        for y in FRONTIER
    ]
    paths = [wr.LinePlot(title=f"{y} against KL", x=f"eval/{KL}", y=[f"eval/{y}"]) for y in FRONTIER]
    return {
        "kl_advantage": view("KL and advantage", {title: lines(names) for title, names in KL_AND_ADVANTAGE.items()}),
        "sparse_vs_dense": compared("Sparse against dense", "reward.credit.name", COMPARED),
        "group_size": compared("Group sizes", "method.group_size", GROUPS),
        "frontier": view("Reward-KL frontier", {"Ends of runs": ends, "Paths over evaluations": paths}, "method.name"),
    }


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Exit codes: 0 saved; 2 bad input or a missing package; 1 the server did not take them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entity", help="user or team (default: the login's own)")
    parser.add_argument("--project", default="align")
    names = ("kl_advantage", "sparse_vs_dense", "group_size", "frontier")
    parser.add_argument("--only", choices=names, help="one of the four")
    given = parser.parse_args(arguments)
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install 'align[dashboards]'", file=sys.stderr)
        return 2
    try:
        views = dashboards(given.entity or str(wandb.Api().default_entity), given.project)
        for name in [given.only] if given.only else names:
            say(views[name].save().url)
    except Exception as error:  # the client's own kinds are many
        print(f"failed: {_reason(error)}", file=sys.stderr)
        return 1
    return 0


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text


if __name__ == "__main__":
    sys.exit(main())
