"""The systemd units of a device, as plain files into the root of a system: this one, or that of an image.

Rules: no service manager is asked to do anything, so that it works on an image's root as well; enabling a unit is the
link that ``systemctl enable`` would make.  Installing again changes nothing.  What an administrator wrote in place of a
unit is not told apart from an older one of ours and is replaced; drop-ins (``systemctl edit``) are left alone.

A set is a folder of ``abboot/data/units``; its files go to the same place below ``etc/systemd`` of the root:
``device/system/abboot-confirm.service`` becomes ``etc/systemd/system/abboot-confirm.service``.

Sources: systemd.unit(5), "[Install] section options"; systemctl(1), "enable".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import attrs

from abboot.errors import AbbootError
from abboot.linux.sysroot import device_error, is_live, place_to_write, read_small, under, write_small

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: What can be installed: ``device`` is what every device needs.
SETS = ("device", "forklift")
SYSTEMD = "etc/systemd"
CONFIG = "etc/abboot.toml"
DEFAULT_EXEC = "/usr/bin/abboot"

_ANALYZE = ("/usr/bin/systemd-analyze", "/bin/systemd-analyze")
_VERIFY_TIMEOUT_S = 60.0
_VERIFY_BYTES = 256 * 1024
_MAX_UNIT = 256 * 1024
# systemd refuses others in an ExecStart=, or would have to be told about them.
_EXEC = re.compile(r"/[A-Za-z0-9_./+@:-]+")
_ENABLING = {"WantedBy": "wants", "RequiredBy": "requires"}


@attrs.frozen(kw_only=True)
class UnitFile:
    """One file of a set, ready to be written."""

    path: str  # below the root: "etc/systemd/system/abboot-confirm.service"
    text: str

    @property
    def unit(self) -> str:
        """The name of the unit; empty for a drop-in, or for what configures systemd itself."""
        folder, name = os.path.split(self.path)
        return name if folder == f"{SYSTEMD}/system" else ""

    def links(self) -> tuple[str, ...]:
        """The links that enable it, below the root; each leads to ``/`` + ``path``."""
        return tuple(
            f"{SYSTEMD}/system/{target}.{_ENABLING[key]}/{self.unit}"
            for key, value in _install_section(self.text)
            if key in _ENABLING and self.unit
            for target in value.split()
        )


@attrs.frozen(kw_only=True)
class Installed:
    """What :func:`install_units` did; paths are below the root."""

    changed: tuple[str, ...]  # files and links that were written
    unchanged: tuple[str, ...]
    verified: bool  # systemd-analyze looked at them
    problems: tuple[str, ...]  # what it said about our units, and every ordering cycle


def unit_files(name: str = "device", *, executable: str = DEFAULT_EXEC) -> tuple[UnitFile, ...]:
    """The files of a set, by path.

    Args:
        name: one of :data:`SETS`.
        executable: where the command ``abboot`` will be, for ``ExecStart=``.

    Raises:
        AbbootError: there is no such set, or systemd could not start such a path.
    """
    if name not in SETS:
        raise AbbootError(f"cannot install the units {name!r}: there are {', '.join(SETS)}")
    if not _EXEC.fullmatch(executable):
        raise AbbootError(
            f"cannot install units that start {executable!r}: that is no absolute path that systemd takes as it is",
            "use a path of letters, digits, and . _ + @ : - /",
        )
    base = resources.files("abboot").joinpath("data", "units", name)
    if not base.is_dir():
        return ()
    files = [
        UnitFile(path=f"{SYSTEMD}/{path}", text=text.replace(DEFAULT_EXEC, executable))
        for path, text in sorted(_texts(base))
    ]
    return tuple(files)


def install_units(
    root: str, *, sets: Sequence[str] = ("device",), executable: str = DEFAULT_EXEC, verify: bool = True
) -> Installed:
    """Write the units of these sets, enable them, and leave a configuration if there is none.  Idempotent.

    Args:
        root: ``/``, or the root of an image.
        sets: of :data:`SETS`.
        executable: where the command ``abboot`` is in that root.
        verify: let ``systemd-analyze`` look at the result, if it is there.

    Raises:
        AbbootError: no such folder or set.
        DeviceError: something could not be written, or a link leads out of the root; what was written stays.
    """
    if not os.path.isdir(root):
        raise AbbootError(f"cannot install units below {root}: there is no such folder")
    files = [file for name in sets for file in unit_files(name, executable=executable)]
    done: dict[str, bool] = {}
    for file in files:
        done[file.path] = _write(root, file.path, file.text)
    for file in files:
        for link in file.links():
            done[link] = _link(root, link, f"/{file.path}")
    if not os.path.lexists(under(root, CONFIG)):
        text = resources.files("abboot").joinpath("data", "abboot.toml").read_text("utf-8")
        done[CONFIG] = _write(root, CONFIG, text)
    found = verify_units(root, [file.unit for file in files if file.unit]) if verify else None
    return Installed(
        changed=tuple(path for path, changed in done.items() if changed),
        unchanged=tuple(path for path, changed in done.items() if not changed),
        verified=found is not None,
        problems=found or (),
    )


def verify_units(root: str, units: Sequence[str]) -> tuple[str, ...] | None:
    """What ``systemd-analyze verify`` says about these units and about ordering cycles of the whole boot.

    systemd breaks a cycle by dropping a unit, and nothing is red (H-38).

    Returns:
        Its lines, without those about other units; ``None`` where it is not installed or cannot look at ``root``.
    """
    from abboot.health.process import run_bounded

    program = next((path for path in _ANALYZE if os.access(path, os.X_OK)), None)
    if program is None:
        return None
    where = [] if is_live(root) else [f"--root={os.path.realpath(root)}"]
    whole_boot = ["default.target"] if _has_unit(root, "default.target") else []
    try:
        ran = run_bounded(
            [program, "verify", *where, "--man=no", "--generators=no", *units, *whole_boot],
            timeout_s=_VERIFY_TIMEOUT_S,
            keep_bytes=_VERIFY_BYTES,
        )
    except OSError:
        return None
    if ran.timed_out:
        return None
    return tuple(dict.fromkeys(line.strip() for line in ran.output.splitlines() if _concerns(line, units)))


def is_cycle(problem: str) -> bool:
    """Whether a line of :func:`verify_units` tells of an ordering cycle: one of its units will not be started."""
    return "ordering cycle" in problem or "deleted to break" in problem


def _concerns(line: str, units: Sequence[str]) -> bool:
    return is_cycle(line) or any(unit in line for unit in units)


def _has_unit(root: str, unit: str) -> bool:
    folders = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
    return any(os.path.lexists(under(root, f"{folder}/{unit}")) for folder in folders)


def _texts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_text("utf-8")


def _install_section(text: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and not line.startswith(("#", ";")):
            key, _equals, value = line.partition("=")
            yield key.strip(), value.strip()


def _write(root: str, path: str, text: str) -> bool:
    data = text.encode()
    if read_small(place_to_write(root, path), _MAX_UNIT) == data:
        return False
    write_small(root, path, data)
    return True


def _link(root: str, path: str, target: str) -> bool:
    place = place_to_write(root, path)
    if os.path.islink(place) and os.readlink(place) == target:
        return False
    temporary = f"{place}.abboot-new"
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, place)
    except OSError as error:
        raise device_error("write", place, error, "run as root") from error
    return True
