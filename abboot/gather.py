"""Gathering a tree from what a stage was given: the booted slot's files, folders over them, changed texts.

Reads only.  The order is the rule:

1. the files of the booted slot, less what is dropped;
2. the folders, each over what is there;
3. what is carried: these files of the booted slot win over all of that;
4. keys of ``cmdline.txt``;
5. ``config.d/*.txt`` merged into ``config.txt`` (:mod:`abboot.core.snippets`); the snippets stay in the tree, so that
   the next stage from this slot finds them.

The booted slot is read as it is now, not as it was staged: what its system and its user changed comes along.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import attrs

from abboot.core.cmdline import CMDLINE_PATH, set_cmdline
from abboot.core.protocols import Disk
from abboot.core.snippets import CONFIG_PATH, SNIPPET_DIRECTORY, is_snippet, merge_snippets
from abboot.core.states import Observation
from abboot.core.tree import fold, problem_of_path, shown
from abboot.core.value import Value
from abboot.core.words import Slot
from abboot.errors import AbbootError, InvalidTree
from abboot.sources import FolderSource, MemoryFile, SourceFile, VolumeSource, merge
from abboot.verify import open_slot

TEXT_LIMIT = 256 * 1024  # bytes: of cmdline.txt, and of config.txt with its snippets; what is edited is held in memory
_SOURCE_LINE = 100  # characters


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Gathered(Value):
    """A tree, ready to be staged while :func:`gather` is open.

    Args:
        files: sorted by path.
        sources: one line for each place that something was taken from, for the record.
        warnings: one sentence each.
    """

    files: tuple[SourceFile, ...]
    sources: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@contextmanager
def gather(
    disk: Disk,
    observation: Observation,
    *,
    booted: Slot | None,
    base: bool,
    folders: Sequence[str | os.PathLike[str]],
    drop: Sequence[str] = (),
    carry: Sequence[str] = (),
    cmdline: Mapping[str, str] | None = None,
) -> Iterator[Gathered]:
    """Put a tree together.

    Args:
        disk: that holds the slots.
        observation: of it.
        booted: the slot to start from and to carry from.
        base: start from all of its files.
        folders: laid over that, in order; later ones win.
        drop: files and folders of the booted slot that are left out; one that is not there is left out already.
        carry: files and folders of the booted slot that win over what the folders have; likewise.
        cmdline: keys of ``cmdline.txt`` to set.

    Raises:
        AbbootError: nothing was given, something of it cannot be read, or a path or key cannot be.
    """
    for path in (*drop, *carry):
        if problem := problem_of_path(path.rstrip("/")):
            raise AbbootError(f"cannot take {shown(path)!r} from the booted slot: {problem}", "name it as on the slot")
    if not base and not folders:
        raise AbbootError("cannot stage: no tree was given", "name a folder, or start from the booted slot")
    with ExitStack() as stack:
        layers: list[tuple[SourceFile, ...]] = []
        names: dict[str, str] = {}  # origin of a file -> how the record calls it
        carried: tuple[SourceFile, ...] = ()
        if booted is not None and (base or carry):
            volume = stack.enter_context(open_slot(disk, observation, booted))
            origin = f"slot {booted}"
            there = VolumeSource(volume, origin).scan()
            digest = observation.slots[booted].record_digest
            names[origin] = f"{origin} ({f'record {digest[:12]}' if digest else 'no record'})"
            carried = tuple(file for file in there if _is_in(file.path, carry))
            if base:
                layers.append(tuple(file for file in there if not _is_in(file.path, drop)))
        for folder in (os.fspath(each) for each in folders):
            names[folder] = f"folder {os.path.basename(os.path.abspath(folder)) or folder}"
            layers.append(FolderSource(folder).scan())
        files = merge((), [*layers, carried])
        counts = Counter(file.origin for file in files)
        sources = [f"{name}: {_files(counts[origin])}" for origin, name in names.items()]
        if cmdline:
            files = _with_cmdline(files, cmdline)
            sources.append("cmdline: " + " ".join(f"{key}={value}" for key, value in cmdline.items()))
        files, warnings = with_snippets(files)
        if merged := sum(is_snippet(file.path) for file in files):
            sources.append(f"{SNIPPET_DIRECTORY}: {_files(merged)} merged into {CONFIG_PATH}")
        yield Gathered(
            files=files,
            sources=tuple(line if len(line) <= _SOURCE_LINE else line[: _SOURCE_LINE - 1] + "…" for line in sources),
            warnings=warnings,
        )


def with_snippets(files: tuple[SourceFile, ...]) -> tuple[tuple[SourceFile, ...], tuple[str, ...]]:
    """The tree with its ``config.d/*.txt`` merged into its ``config.txt``, and warnings.

    A tree with snippets and without a ``config.txt`` gets one.  One without snippets loses the block that is left of
    earlier ones, and is not looked at beyond that.

    Raises:
        InvalidTree: snippets and ``config.txt`` have more than 256 KiB.
        AbbootError: one of them cannot be read.
    """
    old = next((file for file in files if fold(file.path) == fold(CONFIG_PATH)), None)
    snippets = [file for file in files if is_snippet(file.path)]
    size = sum(file.size for file in (*snippets, *([old] if old else [])))
    if size > TEXT_LIMIT:
        if not snippets:
            return files, ()
        raise InvalidTree(
            f"cannot merge {SNIPPET_DIRECTORY} into {CONFIG_PATH}: {size} bytes found, {TEXT_LIMIT} are handled",
            f"remove what is no configuration from {SNIPPET_DIRECTORY}",
        )
    text = _read(old) if old else b""
    merged = merge_snippets(text, [(file.path, _read(file)) for file in snippets])
    if merged.text == text:
        return files, merged.warnings
    new = MemoryFile(old.path if old else CONFIG_PATH, merged.text, old.origin if old else SNIPPET_DIRECTORY)
    return _replaced(files, old, new), merged.warnings


def _with_cmdline(files: tuple[SourceFile, ...], values: Mapping[str, str]) -> tuple[SourceFile, ...]:
    old = next((file for file in files if fold(file.path) == fold(CMDLINE_PATH)), None)
    if old is None or old.size > TEXT_LIMIT:
        found = f"the tree has no {CMDLINE_PATH}" if old is None else f"it has {old.size} bytes"
        raise InvalidTree(
            f"cannot set {', '.join(map(shown, values))} in {CMDLINE_PATH}: {found}",
            "put one with the kernel's command line into the tree, or start from the booted slot",
        )
    data = set_cmdline(_read(old).decode("utf-8", "surrogateescape"), values).encode("utf-8", "surrogateescape")
    return _replaced(files, old, MemoryFile(old.path, data, old.origin))


def _replaced(files: tuple[SourceFile, ...], old: SourceFile | None, new: SourceFile) -> tuple[SourceFile, ...]:
    return tuple(sorted((*(file for file in files if file is not old), new), key=lambda file: file.path))


def _read(file: SourceFile) -> bytes:
    data = b"".join(file.chunks())
    if len(data) != file.size:
        raise AbbootError(f"cannot read {shown(file.path)} of {file.origin}: it changed while it was being read")
    return data


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _is_in(path: str, places: Sequence[str]) -> bool:
    """Whether ``path`` is one of ``places``, or in a folder that is, as FAT compares names."""
    folded = fold(path)
    return any(folded == place or folded.startswith(place + "/") for place in map(fold, map(_trimmed, places)))


def _trimmed(path: str) -> str:
    return path.rstrip("/")
