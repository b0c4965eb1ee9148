"""``abboot simulate run``: a card image in an emulator, its console on this terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abboot.errors import AbbootError

if TYPE_CHECKING:
    from abboot.cli.render import Style
    from abboot.cli.verbs import Result
    from abboot.simulator.emulator import EmulatedPi, End


def run(options: argparse.Namespace) -> Result:
    """Boot a copy of the image again and again, as the firmware model says, until it is switched off."""
    from abboot.cli.verbs import SCHEMA, Result
    from abboot.core.firmware import Board
    from abboot.simulator.emulator import EmulatedPi, EndKind, Machine, copy_card
    from abboot.simulator.pi import parse_board

    if options.boots < 1 or options.timeout <= 0:
        raise AbbootError("cannot run the image: --boots and --timeout are more than 0")
    boots: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        card = options.output
        if card is None:
            card = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(prefix="abboot-run-")), "card.img")
        copy_card(options.image, card)
        pi = stack.enter_context(
            EmulatedPi(
                card,
                board=parse_board(Board(), options.model, options.bootloader),
                machine=Machine(options.machine),
                transcript=Path(options.transcript) if options.transcript else None,
                append=options.append,
            )
        )
        end: End | None = None
        while len(boots) < options.boots and (end is None or end.kind is not EndKind.POWER_OFF):
            boot = pi.boot
            _tell(options, "".join(f"[firmware] {reason}\n" for reason in boot.why))
            try:
                end = _one_boot(pi, options)
            except KeyboardInterrupt:
                break  # and the power is cut
            boots.append(
                {"partition": boot.partition, "tryboot": boot.tryboot, "end": str(end.kind), "argument": end.argument}
            )
            _tell(options, f"[firmware] the system ended: {end.kind}{f' {end.argument!r}' if end.argument else ''}\n")

    def text(style: Style) -> str:
        lines = [
            f"{number}. partition {boot['partition']}{', with the flag' * boot['tryboot']}: "
            f"{boot['end'].replace('_', ' ')}{' ' + repr(boot['argument']) if boot['argument'] else ''}"
            for number, boot in enumerate(boots, 1)
        ]
        return "\n".join([style.bold(f"{len(boots)} boots"), *lines])

    return Result(data={"schema": SCHEMA, "boots": boots}, text=text)


def _one_boot(pi: EmulatedPi, options: argparse.Namespace) -> End:
    run = pi.switch_on()
    deadline = time.monotonic() + options.timeout
    keyboard = [sys.stdin] if sys.stdin is not None and not sys.stdin.closed else []
    while run.end is None and run.fileno() >= 0 and time.monotonic() < deadline:
        ready, _, _ = select.select([run.fileno(), *keyboard], [], [], max(0.0, deadline - time.monotonic()))
        if run.fileno() in ready:
            _tell(options, run.read())
        if keyboard and sys.stdin in ready:
            data = os.read(sys.stdin.fileno(), 4096)
            if data:
                run.type(data)
            else:
                keyboard = []  # nobody types any more; the system runs on
    return run.finish(timeout_s=0)  # one that did not end by then is reset by the watchdog


def _tell(options: argparse.Namespace, text: str) -> None:
    """With --json stdout has one object and nothing else."""
    stream = sys.stderr if options.json else sys.stdout
    if not options.quiet:
        stream.write(text)
        stream.flush()
