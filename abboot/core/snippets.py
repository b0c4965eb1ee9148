"""``config.d/*.txt`` merged into ``config.txt``, so that several packages can each contribute lines.  No I/O here.

Rules:

* The lines stand in one marked block of ``config.txt``, in the order of the file names.  The block begins with
  ``[all]`` and has another one behind each snippet, so that no filter leaks into it, out of it, or from one snippet
  into the next: ``[all]`` resets every filter (config_txt/conditional.adoc).
* Merging again replaces the block, and without snippets removes it.  What is outside of it is not touched.
* Why not ``include``: bootcode.bin and the EEPROM bootloader read ``config.txt`` too, and do not follow it
  (config_txt/what_is_config_txt.adoc, "include").
* A marker without its other half, left by an editor, is kept as the comment that it is; whatever stands between a pair
  of them is ours.

Sources of the limits: 98 characters of a line (config_txt/what_is_config_txt.adoc); a Pi 5 did not boot with a large
file (raspberrypi/firmware#1848; no number is published, 16 KiB is what people found).
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from abboot.core.tree import fold, shown
from abboot.core.value import Value

CONFIG_PATH = "config.txt"
SNIPPET_DIRECTORY = "config.d"
BEGIN = b"# --- merged from config.d by abboot: edit the files there, not these lines ---"
END = b"# --- end of what is merged from config.d ---"
LINE_MAX = 98  # characters of a line; the firmware ignores what follows
DOUBTFUL_SIZE = 16 * 1024  # bytes

_RESET = b"[all]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # what some editors put at the beginning: in the middle it would spoil a line


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Merged(Value):
    """A new ``config.txt``; ``warnings`` are sentences about what the firmware will not read as it was meant."""

    text: bytes
    warnings: tuple[str, ...] = ()


def is_snippet(path: str) -> bool:
    """Whether this file of a tree is merged: ``config.d/NAME.txt``, in any case."""
    folder, slash, name = fold(path).partition("/")
    return bool(slash) and folder == fold(SNIPPET_DIRECTORY) and "/" not in name and name.endswith(".TXT")


def merge_snippets(config: bytes, snippets: Iterable[tuple[str, bytes]]) -> Merged:
    """Put ``snippets`` into ``config``, in place of those that are there.

    Args:
        config: of ``config.txt``; the end of its first line says how lines end here.
        snippets: path and content.  One without any line contributes nothing: a way to take out an inherited one.
    """
    newline = b"\r\n" if config.partition(b"\n")[0].endswith(b"\r") else b"\n"
    warnings: list[str] = []
    block: list[bytes] = []
    for path, content in sorted(snippets, key=lambda snippet: (fold(snippet[0]), snippet[0])):
        lines = _lines_of(path, content, warnings)
        if lines:
            block += [_heading(path), *lines, _RESET]
    wanted = newline.join([BEGIN, _RESET, *block, END, b""]) if block else b""

    places, unpaired = _blocks(config)
    warnings += [f"{CONFIG_PATH} line {line}: {why}" for line, why in unpaired]
    text = _replace(config, places, wanted, newline)
    if wanted and len(text) > DOUBTFUL_SIZE:
        warnings.append(f"{CONFIG_PATH} has {len(text)} bytes with config.d: a Pi 5 may not boot with more than 16 KiB")
    return Merged(text=text, warnings=tuple(warnings))


def _replace(config: bytes, places: list[tuple[int, int]], wanted: bytes, newline: bytes) -> bytes:
    """``wanted`` in the first of ``places``, or at the end; nothing in the others."""
    if not places:
        # The empty line belongs to the block: removing it gives back what was there, with or without a last newline.
        return config + newline + wanted if wanted else config
    text, at = b"", 0
    for number, (start, end) in enumerate(places):
        text += config[at:start]
        if number == 0 and wanted:
            text += wanted
        else:
            text = _without_empty_line(text, newline, at_end=end == len(config))
        at = end
    return text + config[at:]


def _lines_of(path: str, content: bytes, warnings: list[str]) -> list[bytes]:
    """The lines of a snippet as they go into the block, without the empty ones at its end."""
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")]
    for number, line in enumerate(lines, 1):
        length = len(line.decode("utf-8", "replace"))
        if length > LINE_MAX and not line.lstrip().startswith(b"#"):
            warnings.append(
                f"{shown(path)} line {number} has {length} characters: the firmware reads {LINE_MAX} of a line"
            )
    lines = [line for line in lines if _marker(line) is None]  # of a config.txt that somebody took for a snippet
    while lines and not lines[-1].strip():
        del lines[-1]
    return lines


def _heading(path: str) -> bytes:
    return f"# {shown(path)}".encode("utf-8", "backslashreplace")[:LINE_MAX]


def _marker(line: bytes) -> bytes | None:
    stripped = line.strip()
    return stripped if stripped in (BEGIN, END) else None


def _blocks(config: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, str]]]:
    """Where the marked blocks are, each with its last newline, and the markers that have no other half.

    Markers pair like brackets: so what is left when the blocks are gone can never become a block.
    """
    begins: list[tuple[int, int]] = []  # (offset, line number) of those that are open
    blocks: list[tuple[int, int]] = []
    unpaired: list[tuple[int, str]] = []
    offset = 0
    for number, line in enumerate(config.split(b"\n"), 1):
        end = min(offset + len(line) + 1, len(config))
        marker = _marker(line)
        if marker == BEGIN:
            begins.append((offset, number))
        elif marker == END and begins:
            start, _ = begins.pop()
            blocks = [place for place in blocks if place[0] < start]  # those inside are part of it
            blocks.append((start, end))
        elif marker == END:
            unpaired.append((number, "it ends a block of config.d that does not begin, what is above it is kept"))
        offset = end
    unpaired += [
        (number, "it begins a block of config.d that does not end, what is below it is kept") for _, number in begins
    ]
    return blocks, sorted(unpaired)


def _without_empty_line(text: bytes, newline: bytes, *, at_end: bool) -> bytes:
    """Without the empty line that came with a block, unless the line above it needs it as its end."""
    shorter = text.removesuffix(newline)
    return shorter if at_end or not shorter or shorter.endswith(b"\n") else text
