#!/usr/bin/env python3
"""What does an update cost?  abboot, mcopy, PyFatFS, dd and RAUC write the same five updates onto the same slow card.

The card is a loop device throttled to 20 MB/s (``card.py``).  Everybody is run as a whole command.  Seconds include the
flush; abboot's also hashing, comparing and reading everything back.  Bytes and requests are what the device got.

* ``mcopy -s -o`` and PyFatFS copy the tree into a FAT volume.  They cannot tell what changed, so they copy all of it;
  PyFatFS into a new volume each time, because overwriting a file with it loses the file.
* ``dd`` writes an image of the slot, as far as it is used, with ``oflag=direct``: as fast as the card can be.
* RAUC writes that image from a signed bundle, through its service on a private D-Bus.

Who cannot run on this machine is left out, by name.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
from card import Card, Unavailable, attached, throttled
from trees import UPDATES, changed_bytes, files_of, make_all

SLOT_B = 3  # the partition: on a new card `a` is the primary, so a stage goes to `b`
CARD_BYTES_PER_S = 20_000_000
HERE = Path(__file__).resolve().parent


class Peak:
    """The largest resident memory of the processes that are looked at.

    Not ``getrusage``: a child's figure begins with what its parent had when it was started.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def run(self, command: list[str], **options: Any) -> None:
        """Run a command that must succeed, and look at it as it runs: the kernel keeps the peak of each program."""
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, **options)
            while process.poll() is None:
                self.look(process.pid)
                time.sleep(0.01)
            if process.returncode:
                output.seek(0)
                name = Path(command[0]).name
                sys.exit(f"benchmark: cannot run {name}: exit status {process.returncode}\n{output.read()}")

    def look(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return  # it has just ended
        peak_kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
        self.bytes = max(self.bytes, peak_kib * 1024)


class Contestant:
    """Somebody who writes updates onto ``card.slot``."""

    name: str
    keeps = False  # whether an update starts from what the slot holds, or it is formatted first

    def __init__(self, work: Path, trees: dict[str, Path]) -> None:
        self.work, self.trees = work, trees

    def format(self, card: Card) -> None:
        """Make the slot as empty as this contestant wants to find it."""
        common.run("mkfs.vfat", "-F", "32", "-s", "4", card.slot)

    def update(self, card: Card, name: str, peak: Peak) -> None:
        """Write one update; ``peak`` learns how much memory it took."""
        raise NotImplementedError

    @contextmanager
    def ready(self, card: Card, peak: Peak) -> Iterator[None]:  # noqa: ARG002 - for those who need a service
        """Around an update, and not part of its time."""
        yield


class Abboot(Contestant):
    name = "abboot stage"
    keeps = True

    def format(self, card: Card) -> None:
        """No file system at all: the journal knows the geometry."""
        common.run("dd", "if=/dev/zero", f"of={card.slot}", "bs=4M", "count=2", "oflag=direct")

    def update(self, card: Card, name: str, peak: Peak) -> None:
        peak.run([str(common.ABBOOT), "--json", "--disk", card.node, "stage", str(self.trees[name])])


class Mcopy(Contestant):
    name = "mcopy -s -o"
    keeps = True

    def update(self, card: Card, name: str, peak: Peak) -> None:
        files = [str(path) for path in sorted(self.trees[name].iterdir())]
        peak.run(["mcopy", "-s", "-o", "-Q", "-i", card.slot, *files, "::/"])
        card.flush()


class PyFatFs(Contestant):
    name = "PyFatFS"

    def __init__(self, work: Path, trees: dict[str, Path]) -> None:
        super().__init__(work, trees)
        # Not in abboot's own environment: PyFatFS imports `fs`, and that pkg_resources, which setuptools 82 dropped.
        environment = work / "pyfatfs"
        self._python = environment / "bin/python"
        made = subprocess.run([sys.executable, "-m", "venv", str(environment)], capture_output=True, check=False)
        pip = [str(self._python), "-m", "pip", "install", "-q", "pyfatfs>=1.1,<2", "setuptools<82"]
        if made.returncode or subprocess.run(pip, capture_output=True, check=False).returncode:
            raise Unavailable("pyfatfs cannot be installed here")

    def update(self, card: Card, name: str, peak: Peak) -> None:
        script = str(HERE / "pyfatfs_copy.py")
        peak.run([str(self._python), "-W", "ignore", script, card.slot, str(self.trees[name])])
        card.flush()


class _Image(Contestant):
    """Somebody who writes images: they are made beforehand, and not part of anybody's time."""

    def __init__(self, work: Path, trees: dict[str, Path]) -> None:
        super().__init__(work, trees)
        self.images = {name: _image_of(tree, work / f"slot-{name}.img") for name, tree in trees.items()}


class Dd(_Image):
    name = "dd oflag=direct"

    def update(self, card: Card, name: str, peak: Peak) -> None:
        peak.run(["dd", f"if={self.images[name]}", f"of={card.slot}", "bs=4M", "oflag=direct", "conv=fsync"])


class Rauc(_Image):
    """RAUC with a raw slot, without systemd: its service runs on a D-Bus of its own."""

    name = "RAUC"

    def __init__(self, work: Path, trees: dict[str, Path]) -> None:
        for command, package in (("rauc", "rauc"), ("mksquashfs", "squashfs-tools"), ("dbus-daemon", "dbus-daemon")):
            if shutil.which(command) is None:
                raise Unavailable(f"{command} is not installed (Debian package {package})")
        super().__init__(work, trees)
        self.name = common.run("rauc", "--version").strip().replace("rauc", "RAUC")
        self._home = work / "rauc"
        self._home.mkdir()
        self._cert, self._key = self._home / "cert.pem", self._home / "key.pem"
        certificate = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=benchmark")
        common.run(*certificate, "-keyout", self._key, "-out", self._cert)
        self._bundles = {name: self._bundle(name, image) for name, image in self.images.items()}

    def _bundle(self, name: str, image: Path) -> Path:
        folder = self._home / f"bundle-{name}"
        folder.mkdir()
        os.link(image, folder / "slot.img")
        (folder / "manifest.raucm").write_text(
            "[update]\ncompatible=benchmark\nversion=1\n[bundle]\nformat=plain\n[image.boot]\nfilename=slot.img\n"
        )
        bundle = self._home / f"{name}.raucb"
        common.run("rauc", f"--cert={self._cert}", f"--key={self._key}", "bundle", folder, bundle)
        return bundle

    @contextmanager
    def ready(self, card: Card, peak: Peak) -> Iterator[None]:
        backend = self._home / "backend"
        backend.write_text('#!/bin/sh\ncase "$1" in get-primary) echo A;; get-state) echo good;; esac\n')
        backend.chmod(0o755)
        config = self._home / "system.conf"
        slots = "".join(
            f"[slot.boot.{index}]\ndevice={card.node}p{partition}\ntype=raw\nbootname={name}\n"
            for index, partition, name in ((0, 2, "A"), (1, SLOT_B, "B"))
        )
        for folder in ("data", "mount"):
            (self._home / folder).mkdir(exist_ok=True)
        config.write_text(
            f"[system]\ncompatible=benchmark\nbootloader=custom\nbundle-formats=+plain\n"
            f"data-directory={self._home}/data\n[keyring]\npath={self._cert}\n"
            f"[handlers]\nbootloader-custom-backend={backend}\n{slots}"
        )
        command = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
        bus = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert bus.stdout is not None
        environment = {
            **os.environ,
            "DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip(),
            "DBUS_STARTER_BUS_TYPE": "session",
        }
        self._environment = environment
        options = [f"--conf={config}", f"--mount={self._home}/mount", "--override-boot-slot=A"]
        with (self._home / "service.log").open("w") as log:
            service = subprocess.Popen(["rauc", *options, "service"], stdout=log, stderr=log, env=environment)
        try:
            for _ in range(50):
                asked = subprocess.run(["rauc", "status"], env=environment, capture_output=True, check=False)
                if asked.returncode == 0:
                    break
                time.sleep(0.1)
            yield
            peak.look(service.pid)
        finally:
            for process in (service, bus):
                process.terminate()
                process.wait()

    def update(self, card: Card, name: str, peak: Peak) -> None:  # noqa: ARG002 - the card is in its configuration
        peak.run(["rauc", "install", str(self._bundles[name])], env=self._environment)


def _image_of(tree: Path, image: Path) -> Path:
    """An image of a slot that holds ``tree``, as far as it is used."""
    if image.exists():
        return image
    image.touch()
    os.truncate(image, 256 << 20)
    common.run("mkfs.vfat", "-F", "32", "-s", "4", image)
    common.run("mcopy", "-s", "-Q", "-i", image, *sorted(tree.iterdir()), "::/")
    block = 1 << 20
    used = 0
    with image.open("rb") as file:
        for index in range(256):
            if any(file.read(block)):
                used = index + 1
    os.truncate(image, used * block)
    return image


def one_update(contestant: Contestant, image: Path, name: str, *, empty: bool) -> dict[str, Any]:
    """Run one update on the card that ``image`` is; the image stays as it is afterwards."""
    peak = Peak()
    with attached(image, SLOT_B) as card:
        if empty:
            contestant.format(card)
            card.flush()
        with throttled(card, CARD_BYTES_PER_S), contestant.ready(card, peak):
            os.sync()
            requests, written = card.counters()
            begin = time.perf_counter()
            contestant.update(card, name, peak)
            seconds = time.perf_counter() - begin
            after = card.counters()
    return {
        "seconds": round(seconds, 3),
        "bytes_written": after[1] - written,
        "write_requests": after[0] - requests,
        "peak_bytes": peak.bytes,
    }


def measure(names: list[str]) -> dict[str, Any]:
    for command, package in (("mcopy", "mtools"), ("mkfs.vfat", "dosfstools"), ("sfdisk", "fdisk")):
        common.need(command, package)
    with common.scratch() as work:
        trees = make_all(work)
        pristine = common.build_card(work)
        results: dict[str, dict[str, Any]] = {}
        skipped: dict[str, str] = {}
        for kind in (Abboot, Mcopy, PyFatFs, Dd, Rauc):
            if names and kind.__name__.lower() not in names:
                continue
            try:
                contestant = kind(work, trees)
                full = common.copy_sparse(pristine, work / "full.img")
                figures = {"full": one_update(contestant, full, "full", empty=True)}
                for name in list(UPDATES)[1:]:
                    card = common.copy_sparse(full, work / "update.img")
                    figures[name] = one_update(contestant, card, name, empty=not contestant.keeps)
                results[contestant.name] = figures
            except Unavailable as error:
                skipped[kind.__name__] = str(error)
        return {
            "schema": 1,
            "machine": common.machine(),
            "card_bytes_per_s": CARD_BYTES_PER_S,
            "files": len(files_of(trees["full"])),
            "bytes_total": sum(files_of(trees["full"]).values()),
            "changed_bytes": {
                name: changed_bytes(trees["full"], tree) if name != "full" else sum(files_of(tree).values())
                for name, tree in trees.items()
            },
            "results": results,
            "skipped": skipped,
        }


def report(result: dict[str, Any]) -> None:
    for name, what in UPDATES.items():
        rows = [
            [
                who,
                f"{figures[name]['seconds']:.2f}",
                f"{figures[name]['bytes_written'] / common.MB:.3f}",
                str(figures[name]["write_requests"]),
                f"{figures[name]['peak_bytes'] / common.MB:.0f}",
            ]
            for who, figures in result["results"].items()
        ]
        changed = result["changed_bytes"][name] / common.MB
        title = f"{name}: {what} ({changed:.3f} MB in changed files; a card that writes 20 MB/s)"
        common.print_table(title, ["", "seconds", "MB written", "write requests", "peak MB"], rows)
    for who, why in result["skipped"].items():
        print(f"left out: {who}: {why}")


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/explanation/performance.md."""
    lines = ["| update | | seconds | MB written | write requests | peak MB |", "|---|---|--:|--:|--:|--:|"]
    for name in UPDATES:
        for who, figures in result["results"].items():
            first = f"**{name}**" if who == next(iter(result["results"])) else ""
            f = figures[name]
            written, peak = f["bytes_written"] / common.MB, f["peak_bytes"] / common.MB
            cells = (first, who, f"{f['seconds']:.2f}", f"{written:.3f}", str(f["write_requests"]), f"{peak:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="abboot, mcopy, pyfatfs, dd, rauc")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--markdown", action="store_true", help="print one table for the documentation instead")
    arguments = parser.parse_args()
    result = measure(arguments.only)
    if arguments.markdown:
        print(markdown(result))
    else:
        report(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
