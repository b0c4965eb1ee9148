#!/usr/bin/env python3
"""Draw what each update costs the card: ``plot.py FIGURES.json PICTURE.svg``.  ``updates.py --json`` makes the figures.

Needs matplotlib (``pip install 'abboot[bench]'``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

NOTHING_MB = 0.001  # where the axis begins: a bar that is not there would look like a figure that is missing
# Blue for abboot, greys for the others: they differ little from each other, and that is the point.
COLOURS = ("#1f6fb4", "#4d4d4d", "#7f7f7f", "#a6a6a6", "#cccccc")


def label(megabytes: float) -> str:
    if megabytes == 0:
        return "0"
    return f"{megabytes:.0f} MB" if megabytes >= 1 else f"{megabytes * 1000:.0f} kB"


def draw(result: dict, picture: Path) -> None:
    mpl.rcParams.update({"svg.hashsalt": "abboot", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    updates = list(result["changed_bytes"])
    writers = list(result["results"])
    height = 0.8 / len(writers)
    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    for index, who in enumerate(writers):
        megabytes = [result["results"][who][update]["bytes_written"] / 1e6 for update in updates]
        places = [row + (index - (len(writers) - 1) / 2) * height for row in range(len(updates))]
        widths = [max(value, NOTHING_MB) for value in megabytes]
        bars = axes.barh(places, widths, height * 0.9, color=COLOURS[index % len(COLOURS)], label=who)
        axes.bar_label(bars, [label(value) for value in megabytes], padding=3, fontsize=8)
    names = {"full": "full tree,\nempty slot", "identical": "identical\ntree", "kernels": "kernels +\ninitramfs"}
    axes.set_yticks(range(len(updates)), [names.get(update, update) for update in updates])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(NOTHING_MB, 500)
    axes.set_xticks([0.001, 0.01, 0.1, 1, 10, 100], ["1 kB", "10 kB", "100 kB", "1 MB", "10 MB", "100 MB"])
    axes.set_xlabel("written to the card (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(
        f"Bytes written to the card per update of a {result['bytes_total'] / 1e6:.1f} MB boot tree", loc="left"
    )
    figure.legend(loc="outside lower center", ncols=len(writers), frameon=False)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None, dpi=150)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py FIGURES.json PICTURE.svg")
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
