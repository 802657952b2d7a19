"""The picture of the docs: client CPU a message, one panel for each of the four actions."""

from __future__ import annotations

from pathlib import Path

from .clients import C_CLIENT, CLIENTS
from .results import Results
from .tables import number

PANELS = {
    "publish": "publish",
    "confirm": "confirm, pipelined",
    "consume": "consume, no_ack",
    "consume+ack": "consume, and ack each",
}
LIMITS = 0.3, 2000  # µs; the same in all panels
OURS, C, PEERS = "#c2410c", "#334155", "#94a3b8"


def draw(results: Results, path: Path) -> None:
    """An SVG, with its text as text, and the same bytes for the same results."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cpspika", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    for (scenario, title), axis in zip(PANELS.items(), axes.flat, strict=True):
        costs = [(client, results.cpu(scenario, client.name)) for client in CLIENTS.values()]
        bars = sorted(((cost, client) for client, cost in costs if cost), key=lambda bar: bar[0], reverse=True)
        colours = [OURS if c.ours else C if c.name == C_CLIENT else PEERS for _, c in bars]
        drawn = axis.barh([client.label for _, client in bars], [cost for cost, _ in bars], color=colours)
        axis.bar_label(drawn, [number(cost) for cost, _ in bars], padding=3)
        axis.set_xscale("log")
        axis.set_xlim(*LIMITS)
        axis.xaxis.set_visible(False)
        axis.set_title(title, loc="left", fontweight="bold")
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle(
        "Client CPU, µs a message of 100 bytes (logarithmic, the same scale in all four; shorter is better)"
    )
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)
