"""The whole life of an update, on a simulated Raspberry Pi: what `make demo` shows.

Every step is a command line that you can type yourself; what it leaves behind is checked, and the demo stops at the
first thing that is not as told.  Nothing outside the work folder is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ABBOOT = [sys.executable, "-m", "abboot"]
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def tell(title: str, *lines: str) -> None:
    """A heading, and what happens next."""
    print(f"\n{paint(f'--- {title} ', '1;36')}{paint('-' * max(0, 96 - len(title)), '36')}")
    for line in lines:
        print(paint(line, "2"))
    print(flush=True)


def abboot(*words: str, fails: bool = False) -> None:
    """Run one command in front of the audience; stop if it does not end as told."""
    print(paint(f"$ abboot {shlex.join(words)}", "1"), flush=True)
    done = subprocess.run([*ABBOOT, *words], check=False)
    if (done.returncode != 0) is not fails:
        sys.exit(f"demo: that command ended with exit code {done.returncode}, which is not as it should be")
    print(flush=True)


def ask(*words: str) -> Any:
    """What a program would read."""
    done = subprocess.run([*ABBOOT, "--json", *words], check=False, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        sys.exit(f"demo: {what} is {found!r}, and should be {wanted!r}")


def changed_tree(tree: Path, to: Path, *, note: str, without: str | None = None) -> Path:
    """A copy of the tree with another config.txt, and perhaps without one file."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(tree, to, copy_function=os.link)  # names, not bytes: the tree itself stays as it is
    config = to / "config.txt"
    text = config.read_text()
    config.unlink()
    config.write_text(f"{text}# {note}\n")
    if without is not None:
        (to / without).unlink()
    return to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, required=True, help="a boot tree, as images/raspi-boot-tree.sh makes it")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "demo", help="where the card goes")
    options = parser.parse_args()
    began = time.monotonic()
    # Short paths in what is shown: everything runs from inside the work folder.
    tree, work = options.tree.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.chdir(work)
    shutil.rmtree("card.img.pi", ignore_errors=True)
    shutil.copy(ROOT / "images" / "demo.toml", "demo.toml")
    sim = ("--sim", "card.img")

    tell(
        "1. Build a card",
        "A whole-disk image with the small selector partition (autoboot.txt and the journal) and the two slots,",
        "each with Debian's real boot tree for the Pi 4 and 5. No root, no mount, no loop device.",
    )
    abboot("image", "build", "demo.toml", "--tree", os.path.relpath(tree), "-o", "card.img")

    tell("2. Switch it on", "A simulated Pi 4 boots the card. Slot a is the primary: what a cold boot reaches.")
    abboot(*sim, "status")
    expect("the booted slot", ask(*sim, "status")["booted"], "a")

    tell(
        "3. Stage an update",
        "A tree with another config.txt goes onto the inactive slot. Only what differs is written; while it is,",
        "the slot has no boot sector, so no path of the firmware can reach it. Then every file is read back.",
    )
    update = changed_tree(tree, work / "update-1", note="update 1")
    abboot(*sim, "stage", update.name, "--label", "update 1")

    tell(
        "4. Try it once",
        "[tryboot] in autoboot.txt names slot b, the one-shot flag is set, and the Pi reboots.",
        "[all] still names slot a: whatever goes wrong now, the next reset is back there.",
    )
    abboot(*sim, "trial")
    abboot(*sim, "status")
    expect("the phase", ask(*sim, "status")["phase"], "trial")

    tell(
        "5. Confirm, and commit",
        "The health checks pass (none is configured here). One sector is written: now slot b is the primary.",
    )
    abboot(*sim, "confirm")
    abboot("simulate", "power-cut", "card.img")
    expect("the booted slot", ask(*sim, "status")["booted"], "b")

    tell(
        "6. An update that never comes up",
        "Somebody forgot the kernel. abboot warns, and does not know better: it stages and tries it.",
    )
    broken = changed_tree(tree, work / "update-2", note="update 2", without="kernel8.img")
    abboot(*sim, "stage", broken.name, "--label", "update 2")
    abboot(*sim, "trial")

    tell(
        "7. The firmware falls back",
        "Nothing runs. After a while the watchdog, or a person, cuts the power. The flag is gone with it,",
        "and [all] names slot b. Nobody had to come by.",
    )
    abboot("simulate", "power-cut", "card.img")
    abboot(*sim, "status")
    abboot(*sim, "confirm")
    status = ask(*sim, "status")
    expect("the booted slot", status["booted"], "b")
    expect("the outcome", status["last_trial"]["outcome"], "not_reached")
    expect("the state of slot a", status["slots"]["a"]["state"], "failed")

    tell(
        "8. An update that boots, and is not good enough",
        "This one comes up, but the application does not answer. The trial is left; the primary boots again.",
    )
    slow = changed_tree(tree, work / "update-3", note="update 3")
    abboot(*sim, "stage", slow.name, "--label", "update 3")
    abboot(*sim, "trial")
    abboot(*sim, "revert", "--reason", "the application does not answer")
    abboot(*sim, "confirm")
    status = ask(*sim, "status")
    expect("the booted slot", status["booted"], "b")
    expect("the outcome", status["last_trial"]["outcome"], "reverted")

    tell(
        "9. What the journal remembers", "Every transition, on the card itself. A cut at any of them is recovered from."
    )
    abboot(*sim, "log")
    abboot(*sim, "verify")

    tell(f"Done, in {time.monotonic() - began:.0f} s")
    where = os.path.relpath(work, ROOT)
    print(f"The card is {where}/card.img. Go on yourself, for example:\n")
    print(f"  cd {where}")
    for words in ("--sim card.img stage update-1", "--sim card.img trial", "simulate power-cut card.img"):
        print(f"  {os.path.relpath(ROOT / '.venv' / 'bin' / 'abboot', work)} {words}")


if __name__ == "__main__":
    main()
