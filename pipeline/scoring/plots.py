"""Plots of the page as SVG that takes its colours from the page, light or dark: curves of the losses, intervals.

Drawn in stand-in colours, which `_svg` replaces by the page's own; the same numbers give the same bytes.
"""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

INK, FAINT = "#010203", "#040506"  # text and axes; grid
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03")
COLOURS = {INK: "var(--ink)", FAINT: "var(--line)"}
COLOURS |= {colour: f"var(--series-{k})" for k, colour in enumerate(SERIES)}
WIDE = 10  # largest over smallest value from which on a curve is drawn on a logarithmic scale
SMOOTH = 15  # points of a curve that its bold line is the mean of


def curves(losses: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], title: str) -> str:
    """A small plot for each loss: loss -> training -> steps and values, as SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    across = 3
    down = -(-len(losses) // across)
    figure = Figure(figsize=(9.6, 2.0 * down), layout="constrained")
    for k, (loss, trainings) in enumerate(losses.items()):
        axes = figure.add_subplot(down, across, k + 1)
        for colour, (steps, values) in zip(SERIES, trainings.values(), strict=False):
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(steps, _smooth(values), color=colour, linewidth=1.8)
        every = np.concatenate([values for _, values in trainings.values()])
        if every.min() > 0 and every.max() > WIDE * every.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(loss, fontsize=9.5, color=INK, loc="left")
        _plain(axes)
    return _svg(figure, title)


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean of the last points up to each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(1, len(values) + 1) - SMOOTH, 0)
    last = np.arange(1, len(values) + 1)
    return (sums[last] - sums[first]) / (last - first)


def forest(panels: Mapping[str, Sequence[tuple[str, float, float | None, float | None]]], title: str) -> str:
    """For each metric a dot for each picture with its interval: metric -> (picture, value, low, high), as SVG.

    The first picture of each is the model, which is drawn in another colour with a line down from it.
    """
    from matplotlib.figure import Figure

    names = [name for name, *_ in max(panels.values(), key=len)]
    figure = Figure(figsize=(9.6, 0.7 + 0.24 * len(names)), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (metric, rows) in zip(every, panels.items(), strict=True):
        axes.axvline(rows[0][1], color=SERIES[0], linewidth=0.8, linestyle=(0, (2, 2)))
        for name, value, low, high in rows:
            colour = SERIES[0] if name == names[0] else INK
            y = names.index(name)
            if low is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.7)
            axes.plot(value, y, "o", color=colour, markersize=4.5)
        axes.set_title(metric, fontsize=9.5, color=INK, loc="left")
        _plain(axes)
        axes.set_yticks(range(len(names)), names)
        axes.locator_params(axis="x", nbins=4)
    every[0].set_ylim(len(names) - 0.5, -0.5)
    return _svg(figure, title)


def _plain(axes) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0, which="both")
    axes.spines[:].set_visible(False)


def _svg(figure, title: str) -> str:
    """The figure as an SVG element in the page's colours, without a date; `title` is what screen readers say."""
    import matplotlib
    from markupsafe import escape

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # what belongs to a file of its own, and the size, which the page gives
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text.replace("xlink:href", "href"))
    text = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", text)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the names of groups are the same in every plot
    for colour, name in COLOURS.items():
        text = text.replace(colour, name)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
