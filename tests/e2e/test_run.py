"""``abboot simulate run``: anybody's image, and a keyboard."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import judge
from tests.e2e.bench import BOOT_S
from tests.e2e.conftest import TRANSCRIPTS
from tests.e2e.guest import ROOT, Guest, make_card

pytestmark = pytest.mark.e2e


def test_a_keyboard_reaches_the_console_and_reboots_follow_the_firmware(guest: Guest, tmp_path: Path) -> None:
    transcript = TRANSCRIPTS / "simulate-run.txt"
    transcript.unlink(missing_ok=True)
    command = [sys.executable, "-m", "abboot", "--json", "simulate", "run", make_card(guest), "--machine", "virt"]
    command += ["--boots", "2", "--timeout", str(BOOT_S), "--transcript", transcript]
    # Each system reads what is typed for it and no more.
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout is not None
        for line in ("reboot-with 3", "poweroff -f"):
            while "@@ up" not in process.stderr.readline():
                assert process.poll() is None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        process.stderr.read()
        data = json.loads(process.stdout.read())

    assert process.returncode == 0
    judge("simulate-run", data)
    assert data["boots"] == [
        {"partition": 2, "tryboot": False, "end": "reboot", "argument": "3"},
        {"partition": 3, "tryboot": False, "end": "power_off", "argument": None},
    ]
    assert "reset: partition 3 is requested" in transcript.read_text()
