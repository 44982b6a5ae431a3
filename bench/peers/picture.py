"""One picture of a run: a small chart for each load, a bar for each system. Needs matplotlib, which
the extra `bench` brings.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

COLUMNS = 3
COLOURS = {"ours-sync": "#1b6e3c", "ours-async": "#5fb37c"}
OTHERS = "#9aa5b1"


def draw(
    medians: Mapping[tuple[str, str], Mapping[str, float]], titles: Mapping[str, str], path: Path
) -> None:
    """Messages per second (more is better); milliseconds where the rate is set (less is better)."""
    mpl.use("Agg")
    shown = [name for name in titles if any(workload == name for workload, _ in medians)]
    lines = max(1, -(-len(shown) // COLUMNS))
    figure = Figure(figsize=(4.6 * COLUMNS, 2.3 * lines), layout="constrained")
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        figures = {peer: found for (workload, peer), found in medians.items() if workload == name}
        metric, unit = _metric(name, figures)
        peers = list(figures)
        values = [figures[peer][metric] for peer in peers]
        bars = axes.barh(peers, values, color=[COLOURS.get(peer, OTHERS) for peer in peers])
        axes.bar_label(bars, [_label(value) for value in values], padding=3, fontsize=7)
        axes.set_title(f"{titles[name]}\n{unit}", fontsize=8, loc="left")
        axes.margins(x=0.18)
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _metric(name: str, figures: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    if any("gap_ms" in found for found in figures.values()):
        return "gap_ms", "ms, less is better"
    if name in {"e2e", "fan-out"}:
        return "p99_ms", "p99 in ms, less is better"
    return "per_s", "messages per second, more is better"


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
