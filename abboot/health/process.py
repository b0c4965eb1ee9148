"""Run one program that nobody vouches for: it may hang, fork, or print a gigabyte.

Rules: the program gets its own session and nothing to read; the end of its output is kept, the rest is read and
dropped; its process group is killed at the time-out and also after a normal end, so that a check that runs every
second does not pile up what it started.

Limit: a child that made itself a session of its own (``setsid``) is out of the group's reach and survives; it cannot
make the caller wait, because nobody waits for its end of the pipe.  The control group of the systemd unit gets it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 64 * 1024  # bytes
DRAIN_CHUNKS = 16  # at most what a pipe holds (1 MiB), so that a surviving child cannot feed us for ever
POLL_S = 0.02
REAP_S = 0.5  # a killed process that is still there by then waits for a dead device


@attrs.frozen(kw_only=True)
class Finished:
    """How a program ended."""

    status: int | None  # exit status, or minus the signal; None: timed out, or the status was lost
    timed_out: bool
    output: str  # the end of what it printed, standard error included
    cut: bool  # there was more


def run_bounded(
    argv: Sequence[str], *, timeout_s: float, keep_bytes: int, env: Mapping[str, str] | None = None
) -> Finished:
    """Run ``argv`` and come back within ``timeout_s`` and a little, whatever it does.

    Args:
        argv: the program, by its path, and its arguments.
        timeout_s: after that it is killed.
        keep_bytes: of what it prints, the end.
        env: its whole environment; ``None`` for that of this process.

    Raises:
        OSError: it could not be started.
    """
    import select
    import subprocess

    end_s = time.monotonic() + timeout_s
    tail = bytearray()
    cut, lost = False, False
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
        env=env,
    )
    assert process.stdout is not None  # PIPE, for the type checker
    pipe = process.stdout.fileno()
    try:
        os.set_blocking(pipe, False)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        pipe_open = True

        def read_some() -> bool:
            nonlocal cut, pipe_open
            try:
                data = os.read(pipe, CHUNK)
            except BlockingIOError:
                return False
            pipe_open = bool(data)
            tail.extend(data)
            cut = cut or len(tail) > keep_bytes
            del tail[:-keep_bytes]
            return pipe_open

        while True:
            try:
                ended, status = _ended(process.pid)
            except ChildProcessError:
                # The host process ignores SIGCHLD, and the kernel reaped it.  subprocess would answer "exit status 0".
                ended, status, lost = True, None, True
            if ended:
                for _ in range(DRAIN_CHUNKS):
                    if not pipe_open or not read_some():
                        break
                break
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break
            wait_s = min(left_s, POLL_S)
            if not pipe_open:
                time.sleep(wait_s)
            elif poll.poll(wait_s * 1000):
                read_some()
        return Finished(
            status=status, timed_out=not ended, output=tail.decode("utf-8", errors="backslashreplace"), cut=cut
        )
    finally:
        # The program runs, or is a zombie that nobody has waited for: its number still names its own group.  Where
        # the kernel reaped it, the number may already be somebody else's.
        if not lost:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_S)


def _ended(pid: int) -> tuple[bool, int | None]:
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return False, None
    return True, found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
