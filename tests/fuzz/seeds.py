"""Valid inputs to start from: by mkfs.vfat, mtools, sfdisk and sgdisk, and where a format is our own, by its writer.

As many features as one volume, table or text can have: what no seed has, a mutation rarely invents.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abboot.core.autoboot import Autoboot
from abboot.core.journal import Clocks, Entry, SlotEntry, Trial, successor
from abboot.core.record import Manifest, Record
from abboot.core.words import FatType, Outcome, Slot, SlotState, Transition, TrialProgress
from abboot.fat.geometry import Geometry
from tests.cards import make_card, write_tree
from tests.core.test_partition_table import gpt
from tests.fat.mutate import SECTOR, Crafted, long_entries, make_volume, short_entry
from tests.fuzz.window import MAX_INPUT, pack_image

PARTITION_HEAD = 8  # bytes of knobs before a disk
END_OF_BLOCK = b"\xff"  # between the blocks of a journal; no valid one contains it


# Files of zeros: an input holds what is not empty, and a reader of FAT looks at everything but their content.
VOLUME_TREE = {
    "config.txt": b"arm_64bit=1\n",
    "KERNEL8.IMG": bytes(2304),
    "a long name, with spaces.dtb": bytes(1200),
    "overlays/vc4-kms-v3d.dtbo": bytes(700),
    "overlays/README": bytes(1600),
    "overlays/deep/er/empty": b"",
}


@functools.cache
def volumes() -> tuple[bytes, ...]:
    """FAT12, FAT16 and FAT32 as the tools make them, and crafted ones with what the tools do not make."""
    return (
        _made(64 << 10, "-F", "12", "-s", "1", "-f", "1", "-n", "BOOT_A"),
        _made(64 << 10, "-F", "12", "-s", "2"),
        _made(2 << 20, "-F", "12", "-S", "4096", "-s", "1", "-a"),
        _made(2400 << 10, "-F", "16", "-s", "1", "-a"),
        _made(34 << 20, "-F", "32", "-s", "1", "-a"),
        _made(34 << 20, "-F", "32", "-s", "1", "-f", "1", "-b", "0", "-n", "BOOT_B"),
        *(pack_image(_crafted(fat_type).image) for fat_type in (12, 16, 32)),
    )


def _made(size: int, *options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "volume")
        make_volume(path, VOLUME_TREE, size, *options)
        return pack_image(path.read_bytes())


def _crafted(fat_type: int) -> Crafted:
    """Fragments, odd names, aliases, deleted entries, a label, a deep and a long directory, space set aside."""
    crafted = Crafted(fat_type)
    long = "überlänge with 漢字 and spaces.dtbo"
    full = "x" * 26  # ends with its entry, without a NUL
    root = [
        short_entry(b"BOOT_A     ", attributes=0x08),
        short_entry(b"CONFIG  TXT", flags=0x18, cluster=5, size=700),
        b"\xe5" + short_entry(b"XELETED TXT", cluster=9, size=700)[1:],
        *long_entries(long, b"BERLNG~1DTB"),
        short_entry(b"BERLNG~1DTB", cluster=10, size=100),
        *long_entries(full, b"XXXXXX~1   "),
        short_entry(b"XXXXXX~1   "),
        *long_entries("nobody's", b"OTHER      "),
        short_entry(b"\x05STRANGE   ", cluster=12, size=512),
        short_entry(b"OVERLAYS   ", attributes=0x10, cluster=20),
    ]
    crafted.root(*root)
    if fat_type == 16:  # long enough that following it again and again would be seen
        crafted.chain(*range(100, 2100))
        crafted.root(*root, short_entry(b"LONG       ", cluster=100))
    crafted.chain(5, 9, 7)
    crafted.chain(10)
    crafted.chain(12, 13, 14)
    crafted.chain(20, 30)
    deleted = [b"\xe5" + bytes(31)] * 11  # the directory goes on in its next cluster
    crafted.write(20, b"".join([_dots(20, 0), *(short_entry(b"%-8dDTB" % n) for n in range(3)), *deleted]))
    crafted.write(30, short_entry(b"DEEP       ", attributes=0x10, cluster=21))
    for cluster in range(21, 23):
        crafted.chain(cluster)
        below = short_entry(b"DEEP       ", attributes=0x10, cluster=cluster + 1) if cluster < 22 else b""
        crafted.write(cluster, _dots(cluster, cluster - 1) + below + short_entry(b"EMPTY      "))
    return crafted


def _dots(own: int, parent: int) -> bytes:
    return b"".join(
        short_entry(name.ljust(11), attributes=0x10, cluster=cluster)
        for name, cluster in ((b".", own), (b"..", parent))
    )


@functools.cache
def disks() -> tuple[bytes, ...]:
    """MBR with and without logical partitions, GPT, hybrid, one with 4096-byte blocks; before each the knobs."""
    three = "label: dos\nlabel-id: 0x1234abcd\n2048,2048,c\n4096,4096,c\n8192,4096,e\n"
    logical = "".join(f"start={start}, size=1024, type={kind}\n" for start, kind in ((14336, 83), (18432, "c")))
    options = ["--clear", "-n", "1:2048:4095", "-n", "2:4096:+4096", "-n", "3:8192:+2048", "-c", "2:boot é"]
    options += [option for number in (1, 2, 3) for option in ("-t", f"{number}:0700")]
    plain = bytes(PARTITION_HEAD)
    return (
        plain + _sfdisk(three),
        plain + _sfdisk(three + "start=12288, size=8192, type=f\n" + logical),
        bytes((0, 2, 3, 1, 2, 3, 0, 0)) + _sfdisk(three + "12288,2048,c\n"),
        b"\x01".ljust(PARTITION_HEAD, b"\0") + _sgdisk(options),
        b"\x01".ljust(PARTITION_HEAD, b"\0") + _sgdisk([*options, "-t", "1:ef00", "--hybrid", "1:2"]),
        b"\x05".ljust(PARTITION_HEAD, b"\0")
        + pack_image(gpt((64, 95), (96, 127), (128, 255), blocks=256, block_size=4096)),
        plain + volumes()[0],  # a volume where a disk should be
    )


def _sfdisk(script: str) -> bytes:
    def run(path: Path) -> None:
        command = ["sfdisk", "--quiet", "--no-tell-kernel", path]
        subprocess.run(command, input=script, text=True, check=True, capture_output=True)

    return _disk(run)


def _sgdisk(options: list[str]) -> bytes:
    return _disk(lambda path: subprocess.run(["sgdisk", *options, path], check=True, capture_output=True))


def _disk(make: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "disk")
        with path.open("wb") as file:
            file.truncate(12 << 20)
        make(path)
        return pack_image(path.read_bytes())


@functools.cache
def cards() -> tuple[bytes, ...]:
    """A whole card with a selector and two slots that are filled; needs pyparted."""
    with tempfile.TemporaryDirectory() as folder:
        tree = write_tree(Path(folder, "tree"), {**VOLUME_TREE, "cmdline.txt": b"root=/dev/mmcblk0p5 panic=10\n"})
        return tuple(
            pack_image(make_card(Path(folder, f"{slot}.img"), tree, slot).read_bytes()) for slot in (Slot.A, Slot.B)
        )


def autoboots() -> tuple[bytes, ...]:
    """Files that work, files that people write, and files that only some firmware understands."""
    text = Autoboot(primary=2, trial=3).render()
    return (
        text,
        Autoboot(primary=12, trial=62).render(512),
        b"# by hand\n\n" + text + b"# the end\n",
        text.replace(b"\n", b"\r\n"),
        text.upper(),
        b"\xef\xbb\xbf" + text,
        b"boot_partition=2\n",
        b"[none]\nboot_partition=5\n[pi4]\nboot_partition = 6\n[all]\nboot_partition=7\ntryboot_a_b=0\n",
        text * 9,
    )


def records() -> tuple[bytes, ...]:
    """Records and manifests."""
    record: dict[str, Any] = {"slot": Slot.B, "generation": 2, "abboot_version": "0.1.0", "tree_digest": "c" * 64}
    manifest = Manifest(entries=[(path, f"{number:064x}") for number, path in enumerate(sorted(VOLUME_TREE))])
    return (
        Record(**record).render(),
        Record(
            **record,
            label="Küche",
            sources=("folder trees/new", "booted slot a"),
            annotations={"build": "2026-11-23", "owner": "häufig"},
            forklift={"bundle": {"index": 2, "manifest_sha256": "d" * 64}},
            unknown={"later": [1, 2.5, None, {"deep": True}]},
        ).render(),
        Record(**record, label="x" * 1500).render(),
        manifest.render(),
    )


@functools.cache
def journals() -> tuple[bytes, ...]:
    """Rings, each after its mode (see ``tests.fuzz.targets``): 0 as it is, 1 blocks to be padded, 2 to be signed."""
    geometry = Geometry.choose(34 << 20, label="BOOT_B", volume_id=0xABB0, fat_type=FatType.FAT32, cluster_size=512)
    text = Autoboot(primary=2, trial=3).render()
    slots = {
        Slot.A: SlotEntry(partition=2, state=SlotState.GOOD, record_digest="a" * 64, generation=1),
        Slot.B: SlotEntry(
            partition=3, state=SlotState.STAGED, generation=2, label="BOOT_B", volume_id=1, geometry=geometry.to_json()
        ),
    }
    built = successor(None, Transition.BUILT, primary=Slot.A, slots=slots, abboot_version="0.1.0")
    trial = Trial(slot=Slot.B, record_digest="b" * 64, armed_boot_id="5d7b")
    armed = successor(
        built,
        Transition.ARMED,
        trial=trial,
        boot_id="5d7b",
        autoboot_before=text,
        autoboot_after=b"\0\xff" * 300,
        clocks=Clocks(realtime_s=1763935394.25, boottime_s=12.5),
        unknown={"later": {"words": ["x"]}},
    )
    ended = {"progress": TrialProgress.ENDED, "outcome": Outcome.FELL_BACK, "reason": "it never came up"}
    fell_back = successor(armed, Transition.CONCLUDED, trial=Trial(slot=Slot.B, record_digest="b" * 64, **ended))
    noted = successor(fell_back, Transition.REPAIRED, note="autoboot.txt was damaged", repair_reboots=1)
    entries = (built, armed, fell_back, noted)
    ring = b"".join(entry.encode() for entry in entries[:2])
    signed = [_unsigned(entry) for entry in entries]
    newer = b"2 2 9\n" + signed[-1].partition(b"\n")[2]
    later = b"2 1 9\n" + signed[-1].partition(b"\n")[2].replace(b'"repaired"', b'"teleported"')
    seeds = (
        b"\0" + ring,
        b"\1" + END_OF_BLOCK.join(entry.encode().rstrip(b"\0") for entry in entries),
        *(b"\2" + block for block in signed),
        b"\2" + END_OF_BLOCK.join([signed[0], newer]),
        b"\2" + END_OF_BLOCK.join([signed[0], later]),
    )
    assert all(len(seed) <= MAX_INPUT for seed in seeds)
    return seeds


def _unsigned(entry: Entry) -> bytes:
    """What the target signs: format, readable from and sequence, then the JSON."""
    header, _, text = entry.encode().rstrip(b"\0").partition(b"\n")
    return b" ".join(header.split(b" ")[1:4]) + b"\n" + text


def tree_to_stage(which: int) -> Mapping[str, bytes]:
    """One of three small trees: they share paths with each other and with :data:`VOLUME_TREE`."""
    tree = {
        "config.txt": b"arm_64bit=1\n# %d\n" % which,
        "kernel8.img": bytes(range(256)) * (9 + which),
        "overlays/vc4-kms-v3d.dtbo": b"overlay" * 100,
        "overlays/a name that is long enough for three entries.dtbo": b"long",
    }
    if which == 1:
        tree |= {f"new/{number:03}.bin": b"new" * 100 for number in range(6)}
    if which == 2:
        tree |= {"filling.img": bytes(24 * SECTOR)}
    return tree


def stores() -> tuple[bytes, ...]:
    """What the real Forklift wrote, and what a person may have made of it."""
    golden = Path(__file__).resolve().parents[1] / "forklift/golden"
    return (
        *(path.read_bytes() for path in sorted(golden.glob("*.yml"))),
        b"---\n# by hand\nstaged: {next: 0x2, next-failed: no, history: [1, 0b1_0], names: {a: 1, 'b': 2}}\n...\n",
        b"staged:\n  next: ~\nx:\n  - - 1\n    - {a: [], b: {}, c: 2026-01-01}\n  - |+\n    x\n\n  - >-\n    1:30\n",
        b"forklift-version: v0.7.0\nstaged:\n    names:\n        !!binary gIE=: 1\n        'a #b': 2\n",
    )
