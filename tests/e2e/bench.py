"""A guest's card on a bench: switch it on, type commands, pull its plug, look at the card from outside.

Nothing of abboot judges the card here: mtools and ``fsck.vfat`` do.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from abboot.core.firmware import Board, Model
from abboot.simulator.emulator import EmulatedPi, EmulatorError, End, EndKind, Machine, Run, copy_card
from abboot.simulator.recording import Recording
from tests.e2e.guest import Guest

BOOT_S = 600.0  # what takes 5 s on an idle machine
VERB_S = 600.0
BOARD = Board(model=Model.PI_4, revision="1.4")
PARTITIONS = {"selector": 1, "a": 2, "b": 3}


class Bench:
    """One card and its emulated Pi."""

    def __init__(
        self, guest: Guest, card: Path, transcript: Path, *, machine: Machine, folder: Path, append: str = ""
    ) -> None:
        self.guest = guest
        self.folder = folder
        self.image = folder / "card.img"
        self.transcript = transcript
        transcript.parent.mkdir(parents=True, exist_ok=True)
        transcript.unlink(missing_ok=True)
        copy_card(card, self.image)
        self.machine, self.append = machine, append
        self._run: Run | None = None
        self.restart()

    def restart(self) -> None:
        """A Pi that was just switched on, with the card that is there now."""
        self.pi = EmulatedPi(
            self.image, board=BOARD, machine=self.machine, transcript=self.transcript, append=self.append
        )

    # -- from power on to the end --------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def boot(self, *, record: Path | None = None) -> int:
        """Boot until the console takes commands; the partition that the firmware chose."""
        self.pi.say("")
        self._run = self.pi.switch_on(record=record)
        self._run.wait_for(r"@@ up\n", timeout_s=BOOT_S)
        partition = self.pi.boot.partition
        assert partition is not None
        return partition

    def resume(self, state: Path, *, record: Path | None = None) -> None:
        """Go on from a saved state; the image has to be the one of then."""
        self._run = self.pi.switch_on(state=state, record=record)
        for number in range(100):  # what is typed before the state is there is lost
            self.run.send(f"echo resumed {number}")
            try:
                self.run.wait_for(rf"resumed {number}\n@@ 0\n", timeout_s=1)
            except EmulatorError:
                continue
            return
        raise EmulatorError("cannot resume: the guest does not answer")

    def type(self, line: str, *, status: int = 0, timeout_s: float = VERB_S) -> str:
        """Run a command; what it printed.  It has to end with ``status``."""
        self.pi.say(f"$ {line}")
        before = len(self.run.console)
        self.run.send(line)
        found = self.run.wait_for(r"@@ (\d+)\n", timeout_s=timeout_s, since=before)
        assert found is not None
        printed = self.run.console[before : found.start()]
        assert int(found[1]) == status, f"{line}: ended with {found[1]}\n{printed}"
        return printed

    def abboot(self, words: str, *, status: int = 0) -> Any:
        """The JSON of one verb of abboot."""
        return json.loads(self.type(f"abboot --json {words}", status=status))

    def ends_with(self, line: str, *, timeout_s: float = VERB_S) -> End:
        """Type a command that ends this boot."""
        self.pi.say(f"$ {line}")
        self.run.send(line)
        return self.run.finish(timeout_s=timeout_s)

    def cut(self) -> None:
        self.run.cut_power()

    def cut_at_write(self, number: int, line: str, record: Path) -> int:
        """Type a command and pull the plug when the card took so many writes of this boot.

        Returns:
            How many it took; the plug is pulled at the end of the command at the latest.
        """
        self.pi.say(f"$ {line}    # the power is cut at write {number}")
        before = len(self.run.console)
        with Recording(record) as recording:
            if recording.count() < number:
                self.run.send(line)
                self.run.wait_for(
                    r"@@ \d+\n", timeout_s=VERB_S, since=before, until=lambda: recording.count() >= number
                )
            self.run.cut_power()
            return recording.count()

    def close(self) -> None:
        self.pi.close()
        self.image.unlink(missing_ok=True)

    # -- the card, from outside ----------------------------------------------------------------------------------

    def volume(self, name: str) -> Path:
        """A copy of one partition."""
        start, size = self._place(name)
        path = self.folder / f"{name}.fat"
        path.write_bytes(self.image_bytes(start, size))
        return path

    def image_bytes(self, offset: int, length: int) -> bytes:
        with self.image.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Change a partition from outside, while it is off."""
        with self.image.open("r+b") as file:
            file.seek(self._place(name)[0] + offset)
            file.write(data)

    def offset_of(self, name: str, content: bytes) -> int:
        return self.volume(name).read_bytes().index(content)

    def _place(self, name: str) -> tuple[int, int]:
        """Start and size in bytes."""
        row = self.image_bytes(446 + 16 * (PARTITIONS[name] - 1), 16)
        start, size = (int.from_bytes(row[at : at + 4], "little") * 512 for at in (8, 12))
        return start, size

    def file(self, name: str, path: str) -> bytes:
        """A file of one partition, as mtools reads it."""
        command = ["mtype", "-i", str(self.volume(name)), f"::{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def autoboot(self) -> dict[str, str]:
        """``{"all": "2", "tryboot": "3"}``"""
        text = self.file("selector", "autoboot.txt").decode()
        found = re.findall(r"\[(all|tryboot)\]\n(?:tryboot_a_b=1\n)?boot_partition=(\d)", text)
        assert len(text) == 64
        return dict(found)

    def fsck(self, *names: str) -> None:
        for name in names:
            done = subprocess.run(["fsck.vfat", "-n", self.volume(name)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{name}: {done.stdout}"

    def hidden(self, name: str) -> bool:
        """Whether there is no boot sector: what no path of the firmware can reach (G2)."""
        return self.volume(name).read_bytes()[:512] == bytes(512)


__all__ = ["Bench", "EndKind", "Machine"]
