"""Compare abboot.forklift with the YAML library that Forklift is built with: ``compare.py JUDGE [SECONDS [SEED]]``.

JUDGE is what main.go beside this file becomes; its head says how.  Random names, stores and damaged texts go to both;
whatever they disagree about is printed, and makes the exit status 1.  ``compare.py JUDGE --vectors FILE`` writes what
the judge says about a fixed choice of stores, for tests on machines without Go.
"""

from __future__ import annotations

import base64
import collections
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs

from abboot.forklift.store import StageStore, StoreDamaged
from abboot.forklift.yaml3 import problem_of_key

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ALPHABETS: list[list[str]] = [
    list("abcxyzABC0123456789._-"),
    list(" \t\n\r#:,[]{}&*!|>'\"%@`?-=<~+\\/;"),
    list("\x85\u2028\u2029\xa0\ufeff\u00e9\u65e5\U0001f600\x7f\x01\0\x1b\ufffe\uffff\ud7ff\ue000\u0663"),
    list("0123456789+-_.:eExXoObBtTzZ "),
    list("yYnNoOtTrRuUeEfFaAlLsS~"),
    [".inf", ".nan", "<<", "---", "...", "null", "0x", "0b", "0o", "1e", "2026-01-02", "T10:00:00", "Z", "+01:00"],
    list("a0019\u0660\u00e9-."),
    list("\udc80\udcff\udce2a"),
]
LENGTHS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 30, 70, 126, 128, 129, 140)


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def as_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


class Judge:
    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def write(self, store: StageStore) -> bytes:
        def packed(text: str) -> str:
            return base64.b64encode(as_bytes(text)).decode()

        names = [{"Name": packed(name), "Index": index} for name, index in store.names.items()]
        values = {"Version": packed(store.forklift_version), "Next": store.next or 0, "NextFailed": store.next_failed}
        answer = self._ask({"Store": {**values, "History": store.history, "Names": names}})
        assert not answer["Error"], answer["Error"]
        return base64.b64decode(answer["Text"])

    def read(self, text: bytes) -> dict[str, Any] | None:
        """What is in it, as arguments of ``StageStore``; ``None`` if Forklift cannot read it."""
        answer = self._ask({"Text": base64.b64encode(text).decode()})
        if answer["Error"]:
            return None
        found = answer["Store"]
        return {
            "forklift_version": as_text(base64.b64decode(found["Version"] or "")),
            "next": found["Next"] or None,
            "next_failed": found["NextFailed"],
            "history": tuple(found["History"] or ()),
            "names": {as_text(base64.b64decode(item["Name"])): item["Index"] for item in found["Names"] or ()},
        }


def runes(name: str) -> str:
    return name.translate(dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd"))


def a_name(random: Random) -> str:
    alphabets = random.sample(ALPHABETS, random.choice([1, 1, 2, 3]))
    name = "".join(random.choice(random.choice(alphabets)) for _ in range(random.choice(LENGTHS)))
    return as_text(as_bytes(name))


def a_store(random: Random) -> StageStore:
    names = {a_name(random): random.randrange(1, 20) for _ in range(random.choice([0, 1, 2, 8]))}
    # Names that differ in bytes that are no UTF-8 alone stand in whatever order Go's map has them.
    kept = {runes(name): (name, index) for name, index in names.items() if not problem_of_key(name)}
    return StageStore(
        forklift_version=random.choice(["v0.7.0", "", "v0.8.0-alpha.6", "1.0", "~"]),
        next=random.choice([None, 1, 2, 2**63 - 1]),
        next_failed=random.random() < 0.3,
        history=tuple(random.randrange(1, 9) for _ in range(random.choice([0, 1, 3]))),
        names=dict(kept.values()),
    )


PIECES = (
    b"next: 2\n|    next: 0x10\n|    next: 2.0\n|    next-failed: yes\n|    next-failed: 'no'\n|null|~|"
    b"history: [1, 2]\n|    history:\n    - 1\n|# comment\n| # x|---\n|...\n|\t|\0|\xff|    names: {a: 1, 'b': 2}\n|"
    b"        <<: 1\n|-1|0|future: {a: [1, {b: ~}]}\n|    colour: red\n|99999999999999999999|&a |*a|!!str |"
    b"? |: |>-\n|'|\"|\n|  |    |1_0|010|\xef\xbb\xbf|\r\n|{}|[]|,|staged:\n|names:\n|%YAML 1.2\n---\n"
).split(b"|")


def damage(text: bytes, random: Random) -> bytes:
    for _ in range(random.choice([1, 1, 2, 3])):
        at = random.randrange(len(text) + 1)
        match random.randrange(4):
            case 0:
                text = text[:at] + random.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + random.randrange(1, 12) :]
            case 2:
                lines = text.splitlines(keepends=True) or [b""]
                lines.insert(random.randrange(len(lines) + 1), random.choice([*PIECES, *lines]))
                text = b"".join(lines)
            case _:
                text = text[:at] + bytes([random.randrange(256)]) + text[at + 1 :]
    return text


def disagreements(judge: Judge, random: Random) -> Iterator[str]:
    """One round: a store that both write and read, and a damaged text that both read."""
    store = a_store(random)
    text = judge.write(store)
    if store.render() != text:
        yield f"written differently: {store!a}\n  judge {text!r}\n  ours  {store.render()!r}"
    try:
        again: StageStore | None = StageStore.parse(text)
    except StoreDamaged:
        again = None
    if again != store:
        yield f"not read back: {text!r}\n  {store!a}\n  {again!a}"
    goldens = [path.read_bytes() for path in sorted(GOLDEN.glob("*.yml"))]
    torn = damage(random.choice([text, *goldens]), random)
    theirs = judge.read(torn)
    try:
        ours = StageStore.parse(torn)
    except StoreDamaged:
        return  # stricter than Forklift is what we may be
    found = attrs.asdict(ours, recurse=False, filter=lambda field, _: field.name not in ("extra", "comments"))
    if theirs is None or {**found, "names": dict(ours.names)} != theirs:
        yield f"read differently: {torn!r}\n  judge {theirs!a}\n  ours  {found!a}"


def vectors(judge: Judge) -> Iterator[str]:
    random = Random(7)
    for _ in range(120):
        store = a_store(random)
        values = {"forklift_version": store.forklift_version, "next": store.next, "next_failed": store.next_failed}
        text = judge.write(store)
        assert judge.read(text) == {**values, "history": store.history, "names": store.names}
        yield json.dumps({**values, "history": store.history, "names": dict(store.names), "text": text.decode()}) + "\n"


def main() -> int:
    judge = Judge(sys.argv[1])
    if sys.argv[2:3] == ["--vectors"]:
        Path(sys.argv[3]).write_text("".join(vectors(judge)), "ascii")
        return 0
    seconds, seed = float((sys.argv[2:] or ["60"])[0]), int((sys.argv[3:] or ["1"])[0])
    random, end, counts = Random(seed), time.monotonic() + seconds, collections.Counter[str]()
    while time.monotonic() < end:
        counts["rounds"] += 1
        for found in disagreements(judge, random):
            counts["disagreements"] += 1
            if counts["disagreements"] <= 20:
                print(found)
    print(dict(counts))
    return bool(counts["disagreements"])


if __name__ == "__main__":
    sys.exit(main())
