"""The health checks that abboot brings.  Each looks at one thing, changes nothing, and comes back in time.

Rules: a check is a frozen value, so it can run again and again; it never raises, whatever it finds is in its result;
what only some checks need (sockets, HTTP, processes) is imported when they run.  :data:`KINDS` is the one list: the
configuration file, its reference page and :func:`build_checks` follow from it.
"""

from __future__ import annotations

import enum
import os
import stat
import time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import attrs

from abboot.core.check_spec import MAX_RETRIES, CheckSpec
from abboot.core.health import CheckResult, printable
from abboot.core.settings import (
    ANY_TEXT,
    BOOLEAN,
    COMMAND,
    PATH,
    SIZE,
    TEXT,
    TEXTS,
    SettingError,
    array_of,
    choice,
    duration,
    integer,
    setting,
    settings_of,
    write_duration,
)
from abboot.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ENTRY_POINTS = "abboot.checks"
KEEP_OUTPUT = 2048  # bytes of a program's output in a detail
KEEP_LIST = 64 * 1024  # bytes of systemctl's list of failed units
MAX_SEARCHED = 1024 * 1024  # bytes of a file that are searched
MAX_NAMED = 5  # failed units in a detail
MAX_ROUTES = 1024 * 1024  # bytes of the kernel's list of routes that are searched


@runtime_checkable
class Check(Protocol):
    """What :func:`abboot.health.watch` runs.  Anybody's class that has these four is a check.

    One that also has ``retries``, an integer, is run that often again before its failure counts.
    """

    @property
    def name(self) -> str: ...

    @property
    def required(self) -> bool:
        """Whether its failure makes the system unhealthy, or is only reported."""

    @property
    def timeout_s(self) -> float:
        """When the runner stops waiting.  The check should give up by itself, or its thread stays behind."""

    def run(self) -> CheckResult: ...


class CheckFailed(Exception):
    """What :meth:`BuiltinCheck.probe` raises; the message is the detail."""


@attrs.frozen(kw_only=True)
class BuiltinCheck:
    """What the built-in kinds share; a plug-in may build on it: only :meth:`probe` is missing."""

    summary: ClassVar[str] = ""

    name: str = setting(TEXT, "How reports call it.")
    required: bool = setting(BOOLEAN, "Whether its failure makes the system unhealthy.", default=True)
    timeout_s: float = setting(duration(at_least_s=0.01), "Time-out.", key="timeout", default=10.0)
    retries: int = setting(integer(0, MAX_RETRIES), "Runs more before a failure counts.", default=0)

    def probe(self) -> str:
        """Look once; return the detail.

        Raises:
            CheckFailed: it is not as it should be.
            OSError: it could not be looked at, which counts as failed too.
        """
        raise NotImplementedError

    def run(self) -> CheckResult:
        """One look.  Never raises."""
        started_s = time.monotonic()
        try:
            ok, detail = True, self.probe()
        except CheckFailed as failure:
            ok, detail = False, str(failure)
        except Exception as error:  # noqa: BLE001 - a check that breaks has failed, and the others go on
            ok, detail = False, describe(error)
        return CheckResult(
            name=self.name,
            ok=ok,
            required=self.required,
            detail=printable(detail),
            duration_s=time.monotonic() - started_s,
        )


def describe(error: BaseException) -> str:
    """An exception for people: the operating system's own words where it has some."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _run(argv: tuple[str, ...], timeout_s: float, keep_bytes: int) -> tuple[int, str]:
    """Exit status and the end of the output; everything else is a failure."""
    from abboot.health.process import run_bounded

    finished = run_bounded(argv, timeout_s=timeout_s, keep_bytes=keep_bytes)
    output = ("..." if finished.cut else "") + finished.output
    if finished.timed_out:
        raise CheckFailed(f"no end within {write_duration(timeout_s)}, killed\n{output}")
    if finished.status is None:
        raise CheckFailed("exit status lost: this process ignores SIGCHLD")
    if finished.status < 0:
        raise CheckFailed(f"killed by signal {-finished.status}\n{output}")
    return finished.status, output


@attrs.frozen(kw_only=True)
class CommandCheck(BuiltinCheck):
    """A program that exits with 0."""

    summary = "A program exits with 0. It is killed at the time-out, with its process group."

    argv: tuple[str, ...] = setting(COMMAND, "The program and its arguments; no shell is involved.")

    def probe(self) -> str:
        status, output = _run(self.argv, self.timeout_s, KEEP_OUTPUT)
        if status != 0:
            raise CheckFailed(f"exit status {status}\n{output}")
        return output


@attrs.frozen(kw_only=True)
class FileCheck(BuiltinCheck):
    """A file or folder that exists, with a content if one is asked for."""

    summary = "A path exists; with `contains` or `non_empty`, it is a file with that content."

    path: str = setting(PATH, "The file or folder.")
    contains: str | None = setting(ANY_TEXT, "A text that must be in its first MiB.", default=None)
    non_empty: bool = setting(BOOLEAN, "Whether one byte at least must be in it.", default=False)

    def probe(self) -> str:
        if self.contains is None and not self.non_empty:
            os.stat(self.path)
            return f"{self.path} exists"
        # Reading, not the size: files of proc and sysfs say 0.  Not blocking: a FIFO without a writer would.
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CheckFailed(f"{self.path} is not a regular file")
            data = b""
            while len(data) < MAX_SEARCHED and (more := os.read(fd, MAX_SEARCHED - len(data))):
                data += more
        finally:
            os.close(fd)
        if self.non_empty and not data:
            raise CheckFailed(f"{self.path} is empty")
        if self.contains is not None and self.contains.encode() not in data:
            raise CheckFailed(f"{self.path} does not contain {self.contains!r}")
        return f"{self.path} is as expected"


@attrs.frozen(kw_only=True)
class TcpCheck(BuiltinCheck):
    """A port that accepts a connection."""

    summary = "A TCP port accepts a connection."

    host: str = setting(TEXT, "Name or address.", default="localhost")
    port: int = setting(integer(1, 65535), "The port.")

    def probe(self) -> str:
        import socket

        with socket.create_connection((self.host, self.port), timeout=self.timeout_s):
            return f"{self.host} port {self.port} accepts connections"


@attrs.frozen(kw_only=True)
class HttpCheck(BuiltinCheck):
    """A URL that answers with a good status.

    ``http.client`` rather than ``urllib.request``: no proxies from the environment, no redirects followed, no
    ``file:``; the status of the very first answer counts.
    """

    summary = "A URL answers a GET with a good status. Redirects are not followed, proxies are not used."

    url: str = setting(TEXT, "`http://` or `https://`; certificates are checked.")
    status: tuple[int, ...] = setting(
        array_of(integer(100, 599), at_least=1),
        "The lowest and the highest good status, or just one.",
        default=(200, 399),
    )

    def __attrs_post_init__(self) -> None:
        if len(self.status) > 2 or self.status[0] > self.status[-1]:
            raise SettingError("is not the lowest and the highest good status", "status")
        self._split()

    def _split(self) -> tuple[str, str, int | None, str]:
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise SettingError(f"is not a URL: {error}", "url") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise SettingError("is not a URL such as http://localhost:8080/health", "url")
        if not self.url.isascii() or " " in self.url:
            raise SettingError("holds a character that a URL must escape", "url")
        return parts.scheme, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def probe(self) -> str:
        import http.client

        scheme, host, port, target = self._split()
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=self.timeout_s)
        try:
            connection.request("GET", target, headers={"User-Agent": "abboot", "Connection": "close"})
            found = connection.getresponse().status  # the body is never read
        except http.client.HTTPException as error:
            raise CheckFailed(f"{self.url}: not an HTTP answer ({type(error).__name__})") from None
        finally:
            connection.close()
        if not self.status[0] <= found <= self.status[-1]:
            raise CheckFailed(f"{self.url}: status {found}")
        return f"{self.url}: status {found}"


@attrs.frozen(kw_only=True)
class UnitCheck(BuiltinCheck):
    """A systemd unit that is active.  Source: systemctl(1), ``is-active``."""

    summary = "A systemd unit is active."
    systemctl: ClassVar[str] = "systemctl"

    unit: str = setting(TEXT, 'The full name, such as `"ssh.service"`.')

    def probe(self) -> str:
        status, output = _run((self.systemctl, "is-active", "--", self.unit), self.timeout_s, KEEP_OUTPUT)
        if status != 0:
            raise CheckFailed(f"{self.unit}: {output.strip() or f'exit status {status}'}")
        return f"{self.unit}: active"


@attrs.frozen(kw_only=True)
class NoFailedUnitsCheck(BuiltinCheck):
    """No systemd unit is in the state ``failed``.  Source: systemctl(1), ``list-units``."""

    summary = "No systemd unit has failed."
    systemctl: ClassVar[str] = "systemctl"

    ignore: tuple[str, ...] = setting(TEXTS, "Units that may fail.", default=())

    def probe(self) -> str:
        argv = (self.systemctl, "list-units", "--failed", "--all", "--full", "--plain", "--no-legend", "--no-pager")
        status, output = _run(argv, self.timeout_s, KEEP_LIST)
        if status != 0:
            raise CheckFailed(f"systemctl: exit status {status}\n{output}")
        units = [line.split()[0] for line in output.splitlines() if line.strip()]
        failed = [unit for unit in units if unit not in self.ignore]
        if failed:
            more = f" and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
            raise CheckFailed(f"failed: {', '.join(failed[:MAX_NAMED])}{more}")
        return "no failed units"


@attrs.frozen(kw_only=True)
class MountWritableCheck(BuiltinCheck):
    """A file system that is mounted and not read-only.

    Limit: the mount's flags are read and nothing is written, because the path may be on the booted slot (G4).  A file
    system that the kernel turned read-only after an error is seen; a device that loses what it is given is not.
    """

    summary = "Something is mounted there, and not read-only. Nothing is written."

    path: str = setting(PATH, "The mount point.")

    def probe(self) -> str:
        flags = os.statvfs(self.path).f_flag
        if not os.path.ismount(self.path):
            raise CheckFailed(f"nothing is mounted on {self.path}")
        if flags & os.ST_RDONLY:
            raise CheckFailed(f"{self.path} is mounted read-only")
        return f"{self.path} is mounted read-write"


@attrs.frozen(kw_only=True)
class FreeSpaceCheck(BuiltinCheck):
    """A file system with room for an ordinary user."""

    summary = "A file system has room left."

    path: str = setting(PATH, "Any path on the file system.")
    free: int = setting(SIZE, "The least room.")

    def probe(self) -> str:
        found = os.statvfs(self.path)
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes < self.free:
            raise CheckFailed(f"{self.path}: {free_bytes} bytes free, {self.free} are wanted")
        return f"{self.path}: {free_bytes} bytes free"


class IpVersion(enum.StrEnum):
    """Which Internet protocol a check asks about."""

    ANY = "any"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


_ROUTE_UP = 0x0001
_ROUTE_REJECT = 0x0200  # "unreachable": the kernel lists one for IPv6 where there is no default route


@attrs.frozen(kw_only=True)
class DefaultRouteCheck(BuiltinCheck):
    """A default route that is up.  It says that the network was configured, not that anybody answers.

    Source: proc(5), ``/proc/net/route``; for IPv6 the line that net/ipv6/route.c, ``rt6_native_seq_show``, prints; the
    flags are those of linux/route.h.
    """

    summary = "The kernel has a default route that is up. Nothing is sent."
    proc: ClassVar[str] = "/proc/net"

    ip: IpVersion = setting(  # noqa: RUF009 - it makes an attrs field
        choice(IpVersion), "Which protocol; any: one of both is enough.", default=IpVersion.ANY
    )
    interface: str | None = setting(TEXT, 'The interface it must lead to, such as `"eth0"`.', default=None)

    def probe(self) -> str:
        found = [
            (version, interface)
            for version, routes in ((IpVersion.IPV4, self._ipv4), (IpVersion.IPV6, self._ipv6))
            if self.ip in (version, IpVersion.ANY)
            for interface in routes()
        ]
        for version, interface in found:
            if self.interface in (None, interface):
                return f"{version} default route through {interface}"
        what = "default route" if self.ip is IpVersion.ANY else f"{self.ip} default route"
        if not found:
            raise CheckFailed(f"no {what}")
        others = ", ".join(dict.fromkeys(interface for _version, interface in found))
        raise CheckFailed(f"no {what} through {self.interface}, but through {others}")

    def _ipv4(self) -> Iterator[str]:
        for words in self._lines("route"):
            # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; the first line names the columns.
            if len(words) >= 8 and words[1] == words[7] == "00000000" and _is_up(words[3]):
                yield words[0]

    def _ipv6(self) -> Iterator[str]:
        for words in self._lines("ipv6_route"):
            # destination length source length next-hop metric count use flags interface
            if len(words) >= 10 and words[0] == "0" * 32 and words[1] == "00" and _is_up(words[8]):
                yield words[9]

    def _lines(self, name: str) -> Iterator[list[str]]:
        try:
            with open(f"{self.proc}/{name}", encoding="ascii", errors="replace") as file:
                text = file.read(MAX_ROUTES)
        except FileNotFoundError:
            return  # a kernel without this protocol
        for line in text.splitlines():
            yield line.split()


def _is_up(flags: str) -> bool:
    try:
        return int(flags, 16) & (_ROUTE_UP | _ROUTE_REJECT) == _ROUTE_UP
    except ValueError:
        return False


@attrs.frozen(kw_only=True)
class UptimeCheck(BuiltinCheck):
    """A system that has run for a while, by a clock that NTP does not set.

    A Pi has no clock at boot and gets the time from the network, so the wall clock may leap by years in the middle of
    a trial.  Source: clock_gettime(2), ``CLOCK_BOOTTIME``.
    """

    summary = "The system has run for a while, by a clock that nobody sets."

    at_least_s: float = setting(duration(), "How long.", key="at_least")

    def probe(self) -> str:
        up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        if up_s < self.at_least_s:
            raise CheckFailed(f"up for {write_duration(up_s)}, {write_duration(self.at_least_s)} are wanted")
        return f"up for {write_duration(up_s)}"


KINDS: Mapping[str, type[BuiltinCheck]] = {
    "command": CommandCheck,
    "file": FileCheck,
    "tcp": TcpCheck,
    "http": HttpCheck,
    "unit": UnitCheck,
    "no_failed_units": NoFailedUnitsCheck,
    "mount_writable": MountWritableCheck,
    "free_space": FreeSpaceCheck,
    "default_route": DefaultRouteCheck,
    "uptime": UptimeCheck,
}


@attrs.frozen(kw_only=True)
class UnavailableCheck(BuiltinCheck):
    """Stands for a plug-in that cannot be used: it fails, so a trial that broke its own check is not committed."""

    reason: str

    def probe(self) -> str:
        raise CheckFailed(self.reason)


def plugin_exists(kind: str) -> bool:
    """Whether an installed distribution offers ``kind``; nothing of it is imported."""
    from importlib.metadata import entry_points

    return bool(entry_points(group=ENTRY_POINTS, name=kind))


def build_checks(specs: Iterable[CheckSpec]) -> tuple[Check, ...]:
    """The checks of a configuration.

    A kind that is not in :data:`KINDS` is a plug-in: an entry point of the group ``abboot.checks`` with that name,
    called with ``name``, ``required``, ``timeout_s``, its options and, if it is set, ``retries`` as keywords, that
    returns a :class:`Check`.  One that is missing or cannot be loaded becomes a check that fails and says so, required
    or wanted as configured.

    Raises:
        ConfigError: the options of a built-in kind are wrong.
    """
    return tuple(_build(spec) for spec in specs)


def _build(spec: CheckSpec) -> Check:
    options: dict[str, Any] = {
        **spec.options,
        "name": spec.name,
        "required": spec.required,
        "timeout_s": spec.timeout_s,
        **({"retries": spec.retries} if spec.retries else {}),
    }
    if spec.kind in KINDS:
        fields = {row.key: row.field for row in settings_of(KINDS[spec.kind])}
        try:
            return KINDS[spec.kind](**{fields.get(key, key): value for key, value in options.items()})
        except (SettingError, TypeError) as error:
            raise ConfigError(f"cannot set up health check {spec.name!r}: {error}") from None
    try:
        check = _plugin(spec.kind)(**options)
    except Exception as error:  # noqa: BLE001 - somebody else's code
        reason = describe(error)
    else:
        if isinstance(check, Check):
            return check
        reason = f"it made a {type(check).__name__}, which is not a check"
    return UnavailableCheck(
        name=spec.name,
        required=spec.required,
        timeout_s=spec.timeout_s,
        reason=f"cannot use the plug-in {spec.kind!r}: {reason}",
    )


def _plugin(kind: str) -> Any:
    from importlib.metadata import entry_points

    for found in entry_points(group=ENTRY_POINTS, name=kind):
        return found.load()
    raise LookupError(f"no installed distribution offers it (entry points {ENTRY_POINTS!r})")
