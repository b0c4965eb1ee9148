"""A staged bundle as it lies in the store's folder: whole or not, and what it brings for the boot partition.

Rules:

* An index alone names no bundle: Forklift gives the index of a deleted one to the next.  The digest of its
  ``forklift-bundle.yml`` belongs to it.
* Forklift writes ``forklift-bundle.yml`` last, and syncs nothing: a bundle without a whole one was never finished, or
  went in a power cut.
* The **payload** is the digest of all files below ``exports/boot``, path and content, as a manifest of them would have
  it (:mod:`abboot.core.record`); no file at all has one too.  Two bundles with one payload can run on the same slot.
* The list of exports in ``forklift-bundle.yml`` is not looked at: it names targets, and a target may be a folder.
* What is in a bundle may be hostile or half written: it ends up in ``problem``, is never followed out of the bundle and
  never read without bound (G10).

Source: ``internal/app/forklift/bundles.go`` and ``bundles-models.go`` of Forklift 0.8.0
(https://github.com/forklift-run/forklift).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from typing import Any

import attrs

from abboot.core.canonical import one_line
from abboot.errors import AbbootError, DeviceError
from abboot.linux.sysroot import device_error
from abboot.sources import FolderSource, SourceFile, digest_all

MANIFEST_FILE = "forklift-bundle.yml"
EXPORTS_FOLDER = "exports"
EMPTY_PAYLOAD = hashlib.sha256(b"").hexdigest()
MANIFEST_MAX_SIZE = 4 * 1024 * 1024  # bytes
PAYLOAD_MAX_SIZE = 1024 * 1024 * 1024  # bytes: more fits no boot partition, and early boot does not wait for it

_TOP_KEY = re.compile(r"(forklift-version|pallet):(?: |$)")
_PALLET_KEY = re.compile(r" +(path|version|clean):(?: +(.*))?$")
_TEXT_MAX = 200  # bytes of JSON that a path or a version may take in a record


@attrs.frozen(kw_only=True)
class Bundle:
    """One bundle of the store.

    Args:
        index: its number.
        sha256: of its ``forklift-bundle.yml``; ``None`` where that is missing or not whole.
        payload: its boot payload; ``None`` where it cannot be told, or cannot be on FAT.
        pallet: the path of the pallet, ``github.com/owner/name``.
        version: of the pallet.
        clean: the pallet had no changes beyond its last commit.
        files: the paths of the payload, sorted.
        problem: why it is not whole; empty where it is.
        error: the same as something to raise.
    """

    index: int
    sha256: str | None = None
    payload: str | None = None
    pallet: str = ""
    version: str = ""
    clean: bool | None = None
    files: tuple[str, ...] = ()
    problem: str = ""
    error: AbbootError | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def whole(self) -> bool:
        """It can be applied, and its boot files can be on a slot."""
        return not self.problem


def bundle_folder(store: str, index: int) -> str:
    """Where the bundle ``index`` of the store in the folder ``store`` lies."""
    return os.path.join(store, str(index))


def exported(store: str, index: int, exports: str = "boot") -> tuple[str, tuple[SourceFile, ...]]:
    """The folder with the boot files of a bundle, and these, sorted by path; nothing is read of them yet.

    Raises:
        InvalidTree: there is something in it that cannot be on FAT, or a link.
        AbbootError: it cannot be read.
    """
    folder = bundle_folder(store, index)
    for name in (EXPORTS_FOLDER, *exports.split("/")):
        folder = os.path.join(folder, name)
        if not _is_folder(folder):
            return folder, ()
    return folder, FolderSource(folder, may_be_empty=True).scan()


def read_bundle(store: str, index: int, exports: str = "boot") -> Bundle:
    """Read one bundle; every file of its payload is hashed.  Never raises for what is in it.

    Args:
        store: the folder of the stage store.
        index: of the bundle.
        exports: the folder below its ``exports`` whose files go onto the boot partition.
    """
    found = Bundle(index=index)
    try:
        data = _read_manifest(bundle_folder(store, index))
        found = attrs.evolve(found, **_described(data))
        _folder, files = exported(store, index, exports)
        size = sum(file.size for file in files)
        if size > PAYLOAD_MAX_SIZE:
            raise AbbootError(f"cannot use bundle {index}: {size} bytes of boot files, {PAYLOAD_MAX_SIZE} are handled")
        payload = digest_all(files).digest if files else EMPTY_PAYLOAD
    except AbbootError as error:
        return attrs.evolve(found, problem=error.message, error=error)
    return attrs.evolve(
        found, sha256=hashlib.sha256(data).hexdigest(), payload=payload, files=tuple(file.path for file in files)
    )


def manifest_digest(store: str, index: int) -> str | None:
    """The digest of the ``forklift-bundle.yml`` of a bundle; ``None`` where it is missing or not whole.

    It reads nothing else, so it does not tell whether the bundle is whole.
    """
    try:
        return hashlib.sha256(_read_manifest(bundle_folder(store, index))).hexdigest()
    except AbbootError:
        return None


def _is_folder(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error
    if not stat.S_ISDIR(mode):
        raise AbbootError(
            f"cannot read {path}: it is a link or a file, not a folder", "stage the pallet again with Forklift"
        )
    return True


def _read_manifest(bundle: str) -> bytes:
    if not _is_folder(bundle):
        raise AbbootError(f"cannot read bundle {os.path.basename(bundle)}: there is no {bundle}", _AGAIN)
    path = os.path.join(bundle, MANIFEST_FILE)
    try:
        # O_NOFOLLOW, O_NONBLOCK: a link or a fifo in its place is an error, and nothing to wait for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise AbbootError(f"cannot read {path}: it is no regular file", _AGAIN)
            data = file.read(MANIFEST_MAX_SIZE + 1)
    except FileNotFoundError as error:
        raise AbbootError(f"cannot read {path}: there is none, so this bundle was never finished", _AGAIN) from error
    except OSError as error:
        raise _cannot_read(path, error) from error
    problem = _problem_of(data)
    if problem:
        raise AbbootError(f"cannot read {path}: {problem}", _AGAIN)
    return data


def _problem_of(data: bytes) -> str:
    """Why this is no whole ``forklift-bundle.yml``, as far as can be told without reading all of YAML."""
    if not data:
        return "it is empty: a power cut came before it was on the medium"
    if len(data) > MANIFEST_MAX_SIZE:
        return f"it has more than {MANIFEST_MAX_SIZE} bytes"
    if b"\0" in data:
        return "it holds NUL bytes: a power cut came before it was on the medium"
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8"
    if lines[-1]:
        return "its last line does not end: the file was cut"
    if len({found[1] for line in lines if (found := _TOP_KEY.match(line))}) < 2:
        return "it names neither a Forklift version nor a pallet"
    return ""


def _described(data: bytes) -> dict[str, Any]:
    """Path, version and cleanness of the pallet, for people: what cannot be told is left out."""
    found: dict[str, Any] = {}
    inside = False
    for line in data.decode().split("\n"):
        if not line.startswith((" ", "#")):
            inside = line.rstrip() == "pallet:"
        elif inside and (match := _PALLET_KEY.fullmatch(line)):
            key, text = match[1], one_line(_scalar(match[2] or ""), _TEXT_MAX)
            if key == "clean":
                found["clean"] = {"true": True, "false": False}.get(text)
            else:
                found.setdefault("pallet" if key == "path" else key, text)
    return found


def _scalar(text: str) -> str:
    """A YAML scalar on one line, as yaml.v3 writes it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            value = json.loads(text)
        except ValueError:
            return text[1:-1]
        return value if isinstance(value, str) else text[1:-1]
    return text


def _cannot_read(path: str, error: OSError | ValueError) -> AbbootError:
    if isinstance(error, OSError):
        return device_error("read", path, error)
    return DeviceError(f"cannot read {path}: {error}")


_AGAIN = "stage the pallet again: `forklift plt stage`"
