"""Hooks: programs that an image, or whoever looks after a device, has run when something happens to its bundles.

Rules:

* A hook of ``EVENT`` is an executable file in ``/usr/lib/forklift/hooks.d/EVENT/`` or ``/etc/forklift/hooks.d/EVENT/``.
* Of two with the same name the one in ``/etc`` counts; a link to ``/dev/null`` there switches it off.
* They run one after another, by name.  Each may take ``hook_timeout``; the end of what it prints is kept, 4 KiB.
* A hook of a ``pre-`` event that fails ends it: no later hook runs, and what was to come has to be left undone.  Other
  hooks that fail are told of, and the rest runs.
* They come from the running system, never from a bundle that is not applied yet.
* Below a sysroot nothing is run: what would be is recorded.

A hook gets the event as its only argument, nothing to read, and this environment and no other:

===========================  =========================================================================================
``PATH``                     ``/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin``
``LANG``                     ``C.UTF-8``
``FORKLIFT_STAGE_STORE``     the folder of the stage store; ``forklift`` takes it from there as well
``FORKLIFT_BUNDLE_INDEX``    of the bundle that it is about; not set where there is none
``FORKLIFT_BUNDLE_PATH``     the folder of that bundle; likewise
===========================  =========================================================================================

Source of the folders and the events: https://github.com/forklift-run/forklift/issues/241.  Forklift 0.8.0 runs no
hooks: abboot's units and wrappers do.  What may be a name is as of run-parts(8), and a dot inside.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence

import attrs

from abboot.core.canonical import one_line
from abboot.errors import AbbootError
from abboot.forklift.bundle import bundle_folder
from abboot.linux.sysroot import device_error, is_live, record_request, under

#: What happens, and when its hooks are run.
EVENTS: Mapping[str, str] = {
    "pre-set-next": "a bundle is about to become `next`; a wrapper asks, and a hook may refuse",
    "post-set-next": "another bundle became `next`",
    "post-apply": "`forklift stage apply` succeeded",
    "apply-failed": "`forklift stage apply` failed; a reboot may follow",
}
#: How a program becomes a hook that may refuse.
ASKING = "pre-"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What package managers and editors leave beside a file.
_LEFT_OVER = (
    *(".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-tmp", ".ucf-old", ".ucf-new", ".ucf-dist"),
    *(".rpmnew", ".rpmorig", ".rpmsave", ".bak", ".orig", ".rej", ".swp"),
)
_MAX_HOOKS = 256  # of one event
_OUTPUT_BYTES = 4096
_SAID_BYTES = 200
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@attrs.frozen(kw_only=True)
class Hook:
    """One hook of an event.  ``problem``: why it cannot be run; empty if it can."""

    name: str
    path: str
    problem: str = ""


@attrs.frozen(kw_only=True)
class HookRun:
    """What became of a hook."""

    hook: Hook
    ran: bool  # False: it could not be, was not reached, or belongs to another system
    failed: bool
    why: str = ""  # how it failed, or why it was not run; one sentence
    output: str = ""  # the end of what it printed


def check_event(event: str) -> str:
    """``event``, if there is such a one.

    Raises:
        AbbootError: there is not.
    """
    if event not in EVENTS:
        raise AbbootError(f"cannot run the hooks of {event!r}: there is no such event", f"events: {', '.join(EVENTS)}")
    return event


def find_hooks(event: str, folders: Sequence[str]) -> tuple[Hook, ...]:
    """The hooks of an event, in the order in which they run.

    Args:
        event: one of :data:`EVENTS`.
        folders: that hold a folder for each event; the later ones win.  One that is missing holds none.

    Raises:
        AbbootError: there is no such event, or more hooks than anybody means.
        DeviceError: a folder cannot be read.
    """
    check_event(event)
    found: dict[str, str] = {}
    for folder in folders:
        place = os.path.join(folder, event)
        try:
            names = os.listdir(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise device_error("read", place, error) from error
        found |= {name: os.path.join(place, name) for name in names if _is_name(name)}
    if len(found) > _MAX_HOOKS:
        raise AbbootError(f"cannot run the hooks of {event}: there are {len(found)}, {_MAX_HOOKS} are run")
    return tuple(
        Hook(name=name, path=path, problem=_problem_of(path))
        for name, path in sorted(found.items())
        if not _is_masked(path)
    )


def run_hooks(
    event: str,
    *,
    folders: Sequence[str],
    store: str,
    bundle: int | None,
    timeout_s: float,
    sysroot: str = "/",
    simulated: bool = False,
) -> tuple[HookRun, ...]:
    """Run the hooks of an event, and say what became of each; empty where there are none.

    Args:
        event: one of :data:`EVENTS`.
        folders: of :func:`find_hooks`, as the system below ``sysroot`` has them.
        store: the folder of the stage store.
        bundle: that it is about.
        timeout_s: for each of them.
        sysroot: with one other than ``/`` they are recorded, not run.
        simulated: they would run on this system, about a simulated one: none is run.

    Raises:
        AbbootError: as of :func:`find_hooks`.  A hook that fails raises nothing: :func:`failures` tells.
    """
    live = is_live(sysroot)
    hooks = find_hooks(event, folders if live else [under(sysroot, folder) for folder in folders])
    runs: list[HookRun] = []
    environment = dict(_ENVIRONMENT, FORKLIFT_STAGE_STORE=store)
    if bundle is not None:
        environment |= {"FORKLIFT_BUNDLE_INDEX": str(bundle), "FORKLIFT_BUNDLE_PATH": bundle_folder(store, bundle)}
    for hook in hooks:
        if event.startswith(ASKING) and failures(runs):
            runs.append(HookRun(hook=hook, ran=False, failed=False, why="a hook before it failed"))
        elif simulated:
            runs.append(HookRun(hook=hook, ran=False, failed=False, why="not run for a simulated Pi"))
        elif not live:
            record_request(sysroot, "hook", event=event, path=hook.path, bundle=bundle)
            runs.append(HookRun(hook=hook, ran=False, failed=False, why="recorded, not run, below a sysroot"))
        elif hook.problem:
            # A hook that may refuse, and cannot be asked, refuses.
            runs.append(HookRun(hook=hook, ran=False, failed=True, why=hook.problem))
        else:
            runs.append(_run(hook, event, environment, timeout_s))
    return tuple(runs)


def failures(runs: Sequence[HookRun]) -> tuple[str, ...]:
    """One sentence for each hook that failed."""
    return tuple(f"the hook {run.hook.path} failed: {run.why}" for run in runs if run.failed)


HookRunner = Callable[[str, "int | None"], "tuple[HookRun, ...]"]


def _run(hook: Hook, event: str, environment: Mapping[str, str], timeout_s: float) -> HookRun:
    from abboot.health.process import run_bounded

    try:
        ended = run_bounded([hook.path, event], timeout_s=timeout_s, keep_bytes=_OUTPUT_BYTES, env=environment)
    except OSError as error:
        why = f"it cannot be run: {(error.strerror or str(error)).lower()}"
        return HookRun(hook=hook, ran=False, failed=True, why=why)
    said = one_line(ended.output.strip(), _SAID_BYTES)
    if ended.timed_out:
        why = f"it was killed after {timeout_s:g} s"
    elif ended.status != 0:
        why = f"exit status {ended.status}" if ended.status is None or ended.status > 0 else f"signal {-ended.status}"
    else:
        return HookRun(hook=hook, ran=True, failed=False, output=ended.output)
    return HookRun(hook=hook, ran=True, failed=True, why=f"{why}{f': {said}' if said else ''}", output=ended.output)


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(_LEFT_OVER)


def _is_masked(path: str) -> bool:
    try:
        return os.readlink(path) == os.devnull
    except OSError:  # no link
        return False


def _problem_of(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"it cannot be read: {(error.strerror or str(error)).lower()}"
    if not stat.S_ISREG(mode):
        return "it is no regular file"
    return "" if mode & 0o111 else "it is not executable: chmod +x"
