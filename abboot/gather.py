"""Gathering a tree from what a stage was given: the booted slot's files, folders over them, a changed command line.

Reads only.  What was taken from where goes into the record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from abboot.core.protocols import Disk
from abboot.core.states import Observation
from abboot.core.tree import fold
from abboot.core.words import Slot
from abboot.errors import AbbootError, InvalidTree
from abboot.sources import FolderSource, MemoryFile, SourceFile, VolumeSource, merge
from abboot.verify import open_slot

CMDLINE = "cmdline.txt"
_CMDLINE_LIMIT = 4096  # bytes; arm64's COMMAND_LINE_SIZE is 2048


@contextmanager
def gather(
    disk: Disk,
    observation: Observation,
    base: Slot | None,
    tree: str | os.PathLike[str] | None,
    overlays: Sequence[str | os.PathLike[str]],
    cmdline: Mapping[str, str],
) -> Iterator[tuple[tuple[SourceFile, ...], tuple[str, ...]]]:
    """The files of the tree, and one line per source for the record.

    Args:
        disk: that holds ``base``.
        observation: of it.
        base: the slot whose files come first; ``None`` for none.
        tree: a folder laid over it.
        overlays: folders laid over that, in order; later ones win.
        cmdline: keys of ``cmdline.txt`` to set.

    Raises:
        AbbootError: nothing was given, or something of it cannot be read.
    """
    with ExitStack() as stack:
        layers: list[tuple[SourceFile, ...]] = []
        sources: list[str] = []
        if base is not None:
            volume = stack.enter_context(open_slot(disk, observation, base))
            layers.append(VolumeSource(volume, f"slot {base}").scan())
            sources.append(f"slot {base}: {observation.slots[base].record_digest or 'no record'}")
        for folder in (*([tree] if tree is not None else []), *overlays):
            layers.append(FolderSource(folder).scan())
            sources.append(f"folder: {os.fspath(folder)}")
        if not layers:
            raise AbbootError("cannot stage: no tree was given", "name a folder, or start from the booted slot")
        files = merge(layers[0], layers[1:])
        if cmdline:
            files = _with_cmdline(files, cmdline)
            sources.append("cmdline: " + " ".join(sorted(cmdline)))
        yield files, tuple(sources)


def set_cmdline(text: str, values: Mapping[str, str]) -> str:
    """A kernel command line with ``key=value`` for each of ``values``: in place of the first of that key, or added.

    Further words of the same key are dropped, since the kernel takes the last.  Quoted words are kept whole.
    """
    words = _words(text)
    for key, value in values.items():
        new = f"{key}={value}"
        at = [index for index, word in enumerate(words) if word == key or word.startswith(f"{key}=")]
        if at:
            words[at[0]] = new
            for index in reversed(at[1:]):
                del words[index]
        else:
            words.append(new)
    return " ".join(words) + "\n"


def _words(text: str) -> list[str]:
    """Words as the kernel splits them (lib/cmdline.c, next_arg): blanks separate, except inside double quotes."""
    words: list[str] = []
    word, quoted = "", False
    for char in text:
        if char.isspace() and not quoted:
            if word:
                words.append(word)
            word = ""
            continue
        quoted ^= char == '"'
        word += char
    return [*words, word] if word else words


def _with_cmdline(files: tuple[SourceFile, ...], values: Mapping[str, str]) -> tuple[SourceFile, ...]:
    for key, value in values.items():
        if not key or any(c.isspace() or c in '"=' for c in key) or any(c in '\n\r"' for c in value):
            raise AbbootError(f"cannot set {key}={value} in {CMDLINE}: not one word of a command line")
    old = next((file for file in files if fold(file.path) == fold(CMDLINE)), None)
    if old is None:
        raise InvalidTree(f"cannot set {', '.join(values)} in {CMDLINE}: the tree has no {CMDLINE}")
    if old.size > _CMDLINE_LIMIT:
        raise InvalidTree(f"cannot set {', '.join(values)} in {CMDLINE}: it has {old.size} bytes")
    text = b"".join(old.chunks()).decode("utf-8", "surrogateescape")
    data = set_cmdline(text, values).encode("utf-8", "surrogateescape")
    return tuple(MemoryFile(old.path, data, old.origin) if file is old else file for file in files)
