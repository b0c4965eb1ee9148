"""Running abboot's command line in tests, and judging its JSON by the published schemas."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from abboot.cli import main
from tests import cards

ROOT = Path(__file__).resolve().parents[2]


@attrs.frozen
class Ran:
    """What a command line gave."""

    code: int
    out: str
    err: str


def abboot(*words: object) -> Ran:
    """Run it in this process; neither stream is a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "abboot", *(str(word) for word in words)]


def environment(**changes: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**plain, "PYTHONPATH": str(ROOT), "TERM": "xterm", **changes}


def process(*words: object, **options: Any) -> Ran:
    """Run it as a process of its own."""
    ran = subprocess.run(
        command(*words), capture_output=True, text=True, check=False, timeout=60, env=environment(), **options
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def said(*words: object, code: int = 0) -> dict[str, Any]:
    """Run it with ``--json``; its one object, judged by the schema of the verb.  Stderr has to stay empty."""
    ran = abboot("--json", *words)
    assert ran.err == ""
    data: dict[str, Any] = json.loads(ran.out)  # one object: anything behind it is an error here
    assert ran.code == code, data
    judge("error" if "error" in data else schema_name(words), data)
    return data


def refused(*words: object, code: int = 1) -> dict[str, str]:
    """Run it with ``--json``; its error."""
    error: dict[str, str] = said(*words, code=code)["error"]
    return error


def schema_name(words: tuple[object, ...]) -> str:
    verb = next(str(word) for word in words if str(word) in VERBS)
    action = (
        str(words[[str(word) for word in words].index(verb) + 1]) if verb in ("forklift", "image", "config") else ""
    )
    return f"{verb}-{action}" if action else verb


VERBS = (
    *("status", "stage", "trial", "confirm", "commit", "revert", "verify", "log", "repair", "selftest"),
    *("doctor", "note-boot", "deadline", "install-units"),
    *("forklift", "image", "simulate", "config"),
)


def schema(name: str) -> dict[str, Any]:
    """A schema as it is published."""
    text = resources.files("abboot").joinpath("data", "schemas", f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def schema_names() -> list[str]:
    folder = resources.files("abboot").joinpath("data", "schemas")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir())


def judge(name: str, data: object) -> None:
    """``data`` is what the schema says, and holds nothing that the schema does not mention."""
    problems = sorted(str(error.message) for error in _strict(name).iter_errors(data))
    assert problems == []


@functools.cache
def _strict(name: str) -> Draft202012Validator:
    return Draft202012Validator(_closed(schema(name)), registry=_registry())


@functools.cache
def _registry() -> Registry[Any]:
    common = _closed(schema("common"))
    return Registry().with_resource(common["$id"], Resource.from_contents(common))


def _closed(found: Any) -> Any:
    """A schema for this very version: a key that nobody described is an error.  Programs must not be so strict."""
    found = copy.deepcopy(found)
    if isinstance(found, Mapping):
        found = {key: _closed(value) for key, value in found.items()}
        if "properties" in found:
            found.setdefault("additionalProperties", False)
    elif isinstance(found, list):
        found = [_closed(value) for value in found]
    return found


def new_card(folder: Path, name: str = "card.img") -> Path:
    """A card of one's own: slot a is primary, both slots hold ``v1``."""
    image = folder / name
    source = cards.card()
    with source.open("rb") as old, image.open("wb") as new:
        for start, data in _data_of(old):
            new.seek(start)
            new.write(data)
        new.truncate(source.stat().st_size)
    return image


def everything_in(folder: Path) -> dict[str, str]:
    """Every path below a folder, with a digest of what it holds and where its holes are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        digest = hashlib.sha256()
        if path.is_file():
            with path.open("rb") as file:
                for start, data in _data_of(file):
                    digest.update(f"{start} {len(data)} ".encode())
                    digest.update(data)
                digest.update(str(path.stat().st_size).encode())
        found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def _data_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are no holes: a card is nearly all holes."""
    end = 0
    while True:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError:  # ENXIO: none behind this
            return
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, os.pread(file.fileno(), end - start, start)
