"""The picture of the crashlab's figures, as SVG.  No I/O here.

Written by hand rather than with a plotting library, because it has to be readable on light and on dark pages: it has
a background of its own, and colours for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from tests.crashlab.figures import VOLUMES, Figures, returned, waited
from tests.crashlab.idioms import IDIOMS

WIDTH = 980
LEFT, BAR, GAP = 304, 188, 60  # where the bars begin, how long they are, and the room between for a figure
ROW, TOP = 26, 112
COLUMNS = {volume: LEFT + index * (BAR + GAP) for index, volume in enumerate(VOLUMES)}
RETURNS = LEFT + len(VOLUMES) * (BAR + GAP) + 4
WAITED = RETURNS + 96

# Told apart by lightness as well as by hue (Okabe and Ito's vermilion, orange and blue).
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; fill: #1f2328 }
.page { fill: #ffffff }
.title { font-size: 16px; font-weight: 600 }
.group { font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.fine { fill: #a9c7e0 }
.bad { fill: #e69f00 }
.lost { fill: #c43d00 }
.wrong { fill: #b33600; font-weight: 600 }
.line { stroke: #d1d9e0 }
"""
DARK = """
text { fill: #e6edf3 }
.page { fill: #0d1117 }
.small { fill: #9198a1 }
.fine { fill: #2f5f8a }
.bad { fill: #e69f00 }
.lost { fill: #ff6a33 }
.wrong { fill: #ff8a5c }
.line { stroke: #3d444d }
"""


def draw(figures: Figures, *, dark: bool = False) -> str:
    """One bar for each idiom and volume: the states that a power cut can leave.

    Args:
        dark: always the dark colours, to look at them with a viewer that knows no preference.
    """
    lines = list(_rows(figures))
    height = TOP + ROW * len(lines) + 62
    style = STYLE + (DARK if dark else f"@media (prefers-color-scheme: dark) {{{DARK}}}")
    body = [f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>', *_head(figures)]
    body += [f'<g transform="translate(0 {TOP + ROW * index})">{line}</g>' for index, line in enumerate(lines)]
    body += _foot(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="title">\n<title id="title">States of autoboot.txt that a power cut can leave, by '
        f"the way it is switched</title>\n<style>{style}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _head(figures: Figures) -> Iterator[str]:
    yield _text(20, 32, "What a power cut can leave of autoboot.txt, by the way it is switched", "title")
    release = figures.kernel.partition("-")[0].partition("+")[0]
    how = "every order of writes between two flushes; three readers judge each state"
    yield _text(20, 54, f"Recorded under Linux {release}'s vfat driver; {how}", "small")
    for volume, x in COLUMNS.items():
        yield _text(x, 92, f"{volume}, bad of all states", "small")
    yield _text(RETURNS, 76, "when it", "small")
    yield _text(RETURNS, 92, "returns", "small")
    yield _text(WAITED, 76, "says new", "small")
    yield _text(WAITED, 92, "after", "small")


def _rows(figures: Figures) -> Iterator[str]:
    group = ""
    for name, idiom in IDIOMS.items():
        if idiom.group != group:
            group = idiom.group
            yield f'<line class="line" x1="20" x2="{WIDTH - 20}" y1="0" y2="0"/>' + _text(20, 18, group, "group")
        results = figures.results[name]
        parts = [_text(32, 18, idiom.title)]
        for volume, x in COLUMNS.items():
            count = results[volume].any_order
            good, lost = (BAR * share / count.states for share in (count.states - count.bad, count.lost))
            for kind, at, width in (("fine", 0, good), ("bad", good, BAR - good - lost), ("lost", BAR - lost, lost)):
                if width > 0:
                    parts.append(f'<rect class="{kind}" x="{x + at:.1f}" y="6" width="{width:.1f}" height="15"/>')
            parts.append(_text(x + BAR + 6, 18, f"{count.bad}/{count.states}", "wrong" if count.bad else ""))
        word = returned(results.values())
        parts.append(_text(RETURNS, 18, word, "" if word == "new" else "wrong"))
        time = waited(results.values())
        parts.append(_text(WAITED, 18, time, "" if time == "at once" else "wrong"))
        yield "".join(parts)


def _foot(height: int) -> Iterator[str]:
    x = 20
    for kind, text, width in (
        ("fine", "old or new, for every reader", 220),
        ("bad", "lost for a reader that follows the FAT, or to fsck.vfat -a", 375),
        ("lost", "neither, even for a forgiving reader", 240),
    ):
        yield f'<rect class="{kind}" x="{x}" y="{height - 36}" width="14" height="14"/>'
        yield _text(x + 20, height - 24, text, "small")
        x += width
