"""Each kind of check, against the real thing: programs, files, sockets on the loopback, mounts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from abboot.core.check_spec import CheckSpec
from abboot.core.settings import SettingError
from abboot.errors import ConfigError
from abboot.health import (
    KINDS,
    Check,
    CheckResult,
    CommandCheck,
    DefaultRouteCheck,
    FileCheck,
    FreeSpaceCheck,
    HttpCheck,
    IpVersion,
    MountWritableCheck,
    NoFailedUnitsCheck,
    TcpCheck,
    UnitCheck,
    UptimeCheck,
    build_checks,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def command(script: str, timeout_s: float = 10.0) -> CommandCheck:
    return CommandCheck(name="command", argv=("sh", "-c", script), timeout_s=timeout_s)


# -- programs --------------------------------------------------------------------------------------------------------


def test_a_program_that_exits_with_0_passes_with_what_it_said() -> None:
    result = command("echo fine; echo 'on stderr' >&2").run()

    assert result.ok
    assert result.detail == "fine\non stderr"


def test_another_exit_status_is_named_with_the_reason() -> None:
    result = command("echo no disk; exit 3").run()

    assert not result.ok
    assert result.detail == "exit status 3\nno disk"


def test_a_program_that_a_signal_ended_has_failed() -> None:
    assert command("kill -SEGV $$").run().detail.startswith("killed by signal 11")


def test_a_program_that_is_not_there_has_failed_with_its_name() -> None:
    result = CommandCheck(name="x", argv=("/no/such/program",)).run()

    assert not result.ok
    assert result.detail == "No such file or directory: /no/such/program"


def test_a_program_that_hangs_is_killed_with_everything_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    result = command(f"sleep 60 & echo $! >{pids}; echo started; sleep 60", timeout_s=0.5).run()

    assert not result.ok
    assert result.detail == "no end within 500ms, killed\nstarted"
    assert result.duration_s < 3
    assert gone(int(pids.read_text()))


def test_a_program_that_ends_leaves_nothing_running(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    result = command(f"sleep 60 & echo $! >{pids}").run()

    assert result.ok
    assert result.duration_s < 3  # the child holds the pipe open, and nobody waits for it
    assert gone(int(pids.read_text()))


def test_a_child_that_escaped_to_its_own_session_cannot_make_us_wait(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    result = command(f"setsid sh -c 'echo $$ >{pids}; exec yes' & while ! [ -s {pids} ]; do sleep 0.01; done").run()

    os.kill(int(pids.read_text()), signal.SIGKILL)
    assert result.ok
    assert result.duration_s < 5


def test_endless_output_is_read_and_dropped() -> None:
    result = command("yes; echo never", timeout_s=0.5).run()

    assert not result.ok
    assert len(result.detail) < 2200
    assert result.duration_s < 3


def test_only_the_end_of_long_output_is_kept() -> None:
    result = command("seq 100000; echo the end").run()

    assert result.ok
    assert result.detail.startswith("...")
    assert result.detail.endswith("the end")
    assert len(result.detail) <= 2048 + 3


def test_a_program_reads_nothing_from_us() -> None:
    assert command("! read line").run().ok


def test_a_failure_is_not_lost_where_the_host_process_ignores_sigchld() -> None:
    # subprocess itself answers "exit status 0" there: a failing check would pass.
    code = """
        import signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        from abboot.health import CommandCheck
        print(CommandCheck(name="x", argv=("false",)).run().ok)
    """

    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"


def gone(pid: int) -> bool:
    for _ in range(100):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return True
    return False


# -- files, mounts, room ---------------------------------------------------------------------------------------------


def test_a_file_check_looks_at_existence_content_and_emptiness(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.write_bytes(b"\xff\x00 state = ready\n")
    empty.touch()

    def ok(path: Path, **options: object) -> bool:
        return FileCheck(name="file", path=str(path), **options).run().ok  # type: ignore[arg-type]

    assert ok(full)
    assert ok(tmp_path)
    assert ok(empty)
    assert not ok(tmp_path / "missing")
    assert ok(full, contains="ready")
    assert not ok(full, contains="steady")
    assert ok(full, non_empty=True)
    assert not ok(empty, non_empty=True)
    assert not ok(tmp_path, non_empty=True)


def test_a_file_of_proc_is_read_although_its_size_is_0() -> None:
    assert FileCheck(name="proc", path="/proc/self/stat", non_empty=True).run().ok


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    result = FileCheck(name="fifo", path=str(tmp_path / "fifo"), non_empty=True).run()

    assert not result.ok
    assert "not a regular file" in result.detail


def test_a_mount_check_tells_a_folder_and_a_read_only_mount_from_a_good_one(tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    writable = next(path for _, path, _, flags, *_ in mounts if flags.split(",")[0] == "rw" and os.path.ismount(path))
    read_only = next((p for _, p, _, flags, *_ in mounts if flags.split(",")[0] == "ro" and os.path.ismount(p)), None)

    assert MountWritableCheck(name="m", path=writable).run().ok
    assert MountWritableCheck(name="m", path=str(tmp_path)).run().detail == f"nothing is mounted on {tmp_path}"
    assert not MountWritableCheck(name="m", path="/no/such/path").run().ok
    if read_only is not None:
        assert MountWritableCheck(name="m", path=read_only).run().detail == f"{read_only} is mounted read-only"


def test_free_space_is_compared_with_what_the_system_says(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free

    assert FreeSpaceCheck(name="f", path=str(tmp_path), free=free // 2).run().ok
    assert not FreeSpaceCheck(name="f", path=str(tmp_path), free=free * 2).run().ok


# -- sockets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_that_listens_passes_and_one_that_does_not_fails(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert TcpCheck(name="tcp", host="127.0.0.1", port=port).run().ok

    listener.close()
    refused = TcpCheck(name="tcp", host="127.0.0.1", port=port).run()

    assert not refused.ok
    assert refused.detail == "Connection refused"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/").partition("?")[0]))
        self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("found", "status", "ok"),
    [
        (200, (200, 399), True),
        (302, (200, 399), True),
        (404, (200, 399), False),
        (302, (200, 299), False),
        (503, (503,), True),
        (500, (200,), False),
    ],
)
def test_the_status_of_the_first_answer_counts(web: str, found: int, status: tuple[int, ...], ok: bool) -> None:
    result = HttpCheck(name="web", url=f"{web}/{found}?q=1", status=status).run()

    assert result.ok is ok
    assert result.detail.endswith(f"status {found}")


def test_a_proxy_of_the_environment_is_not_used(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert HttpCheck(name="web", url=f"{web}/200").run().ok


def test_a_server_that_accepts_and_says_nothing_has_failed(listener: socket.socket) -> None:
    port = listener.getsockname()[1]

    result = HttpCheck(name="web", url=f"http://127.0.0.1:{port}/", timeout_s=0.2).run()

    assert not result.ok
    assert result.duration_s < 2


def test_a_server_that_speaks_something_else_has_failed(listener: socket.socket) -> None:
    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail.example ESMTP\r\n" * 10)

    thread = threading.Thread(target=speak)
    thread.start()
    result = HttpCheck(name="web", url=f"http://127.0.0.1:{listener.getsockname()[1]}/").run()
    thread.join()

    assert not result.ok
    assert "not an HTTP answer" in result.detail


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "localhost",
        "http://",
        "http://user:secret@host/",
        "http://host:99999/",
        "http://h/ x",
        "http://[",
    ],
)
def test_what_is_no_web_address_is_refused_on_construction(url: str) -> None:
    with pytest.raises(SettingError):
        HttpCheck(name="web", url=url)


# -- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def systemctl(tmp_path: Path) -> str:
    """Answers as systemctl(1) does: is-active prints the state; list-units prints UNIT LOAD ACTIVE SUB DESCRIPTION."""
    program = tmp_path / "systemctl"
    program.write_text(
        textwrap.dedent("""\
        #!/bin/sh
        case "$*" in
            "is-active -- ssh.service") echo active ;;
            "is-active -- "*) echo failed; exit 3 ;;
            "list-units --failed "*) cat "$(dirname "$0")/failed" ;;
            *) echo "Unknown command verb $1." >&2; exit 1 ;;
        esac
        """)
    )
    program.chmod(0o755)
    (tmp_path / "failed").write_text("")
    return str(program)


def test_a_unit_is_active_or_its_state_is_told(systemctl: str) -> None:
    class Fake(UnitCheck):
        systemctl: ClassVar[str]

    Fake.systemctl = systemctl

    assert Fake(name="u", unit="ssh.service").run().ok
    assert Fake(name="u", unit="app.service").run().detail == "app.service: failed"


def test_failed_units_are_named_but_for_those_that_may_fail(systemctl: str, tmp_path: Path) -> None:
    class Fake(NoFailedUnitsCheck):
        systemctl: ClassVar[str]

    Fake.systemctl = systemctl

    assert Fake(name="u").run().detail == "no failed units"
    (tmp_path / "failed").write_text(
        "app.service loaded failed failed The app\nswap.swap loaded failed failed A swap with a name\n"
    )
    assert Fake(name="u").run().detail == "failed: app.service, swap.swap"
    assert Fake(name="u", ignore=("app.service",)).run().detail == "failed: swap.swap"
    assert Fake(name="u", ignore=("app.service", "swap.swap")).run().ok


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not installed")
def test_the_real_systemctl_knows_our_arguments() -> None:
    listed = NoFailedUnitsCheck(name="u").run()
    asked = UnitCheck(name="u", unit="no-such-unit-of-abboot.service").run()

    # Without a systemd that runs, it says so; what must not be is that it does not understand us.
    assert not asked.ok
    assert not any(word in (listed.detail + asked.detail).lower() for word in ("unrecognized", "unknown", "invalid"))


# -- network and clock -----------------------------------------------------------------------------------------------

# As a Raspberry Pi with Ethernet prints them: `cat /proc/net/route /proc/net/ipv6_route`.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
{default}eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""
DEFAULT_ROUTE = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
DOWN_ROUTE = DEFAULT_ROUTE.replace("0003", "0002")
NO_ROUTE_6 = (
    "00000000000000000000000000000001 00 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "00000100 00000001 00000000 00000001       lo\n"
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "ffffffff 00000001 00000000 00200200       lo\n"
)
DEFAULT_ROUTE_6 = (
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 "
    "00000400 00000001 00000000 00450003    wlan0\n"
)


@pytest.fixture
def default_route(tmp_path: Path) -> Callable[..., CheckResult]:
    """The answer of the check to these two files of the kernel."""

    class Fake(DefaultRouteCheck):
        proc: ClassVar[str] = str(tmp_path)

    def ask(ipv4: str, ipv6: str | None = None, **options: Any) -> CheckResult:
        (tmp_path / "route").write_text(ROUTES.format(default=ipv4))
        (tmp_path / "ipv6_route").unlink(missing_ok=True)  # as in a kernel without IPv6
        if ipv6 is not None:
            (tmp_path / "ipv6_route").write_text(ipv6)
        return Fake(name="r", **options).run()

    return ask


def test_a_default_route_of_either_protocol_is_enough(default_route: Callable[..., CheckResult]) -> None:
    assert default_route(DEFAULT_ROUTE).detail == "ipv4 default route through eth0"
    assert default_route("", DEFAULT_ROUTE_6).detail == "ipv6 default route through wlan0"


@pytest.mark.parametrize(
    ("ipv4", "ipv6"), [("", None), ("", NO_ROUTE_6), (DOWN_ROUTE, NO_ROUTE_6), ("\0 x\n", "x y\n")]
)
def test_no_default_route_a_dead_one_and_nonsense_have_failed(
    default_route: Callable[..., CheckResult], ipv4: str, ipv6: str | None
) -> None:
    found = default_route(ipv4, ipv6)

    assert (found.ok, found.detail) == (False, "no default route")


def test_the_protocol_and_the_interface_of_a_default_route_can_be_asked_for(
    default_route: Callable[..., CheckResult],
) -> None:
    assert default_route(DEFAULT_ROUTE, NO_ROUTE_6, ip=IpVersion.IPV6).detail == "no ipv6 default route"
    assert default_route(DEFAULT_ROUTE, DEFAULT_ROUTE_6, interface="wlan0").ok
    assert default_route(DEFAULT_ROUTE, interface="wlan0").detail == "no default route through wlan0, but through eth0"


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip (iproute2) is not installed")
def test_the_real_kernel_and_the_ip_command_agree_about_the_default_route() -> None:
    said = [
        subprocess.run(["ip", version, "route", "show", "default"], capture_output=True, text=True, check=False).stdout
        for version in ("-4", "-6")
    ]

    assert DefaultRouteCheck(name="r").run().ok == any(" dev " in text for text in said)


def test_uptime_counts_from_the_boot_and_not_by_the_wall_clock() -> None:
    for at_least_s in (0.0, 1.0, 24 * 3600.0):
        found = UptimeCheck(name="u", at_least_s=at_least_s).run()

        assert found.ok == (time.clock_gettime(time.CLOCK_BOOTTIME) >= at_least_s)
        assert found.detail.startswith("up for ")


# -- from a configuration --------------------------------------------------------------------------------------------


def spec(kind: str, *, required: bool = True, **options: object) -> CheckSpec:
    return CheckSpec(kind=kind, name="mine", required=required, timeout_s=3.0, options=options)


def test_every_kind_is_a_check_and_can_be_built() -> None:
    options = {
        "command": {"argv": ["true"]},
        "file": {"path": "/"},
        "tcp": {"port": 22},
        "http": {"url": "http://localhost/"},
        "unit": {"unit": "ssh.service"},
        "no_failed_units": {},
        "mount_writable": {"path": "/"},
        "free_space": {"path": "/", "free": "1MiB"},
        "default_route": {"interface": "eth0"},
        "uptime": {"at_least": "2min"},
    }
    assert options.keys() == KINDS.keys()

    for kind, check in zip(options, build_checks(spec(kind, **given) for kind, given in options.items()), strict=True):
        assert type(check) is KINDS[kind]
        assert isinstance(check, Check)
        assert (check.name, check.required, check.timeout_s) == ("mine", True, 3.0)


def test_retries_of_a_configuration_reach_the_check() -> None:
    (check,) = build_checks([attrs.evolve(spec("tcp", port=22), retries=2)])

    assert isinstance(check, TcpCheck)
    assert check.retries == 2


@pytest.mark.parametrize("options", [{}, {"port": 0}, {"port": 22, "prot": 1}])
def test_wrong_options_of_a_built_in_kind_are_a_configuration_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot set up health check 'mine': "):
        build_checks([spec("tcp", **options)])


PLUGIN = """
import abboot.health

class Own:
    def __init__(self, *, name, required, timeout_s):
        self.name, self.required, self.timeout_s = name, required, timeout_s

    def run(self):
        return abboot.health.CheckResult(name="?", ok=True, required=True, detail="own", duration_s=0.0)

def nothing(**options):
    return None
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution, as importlib.metadata finds one: a folder on the path."""
    (tmp_path / "some_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "some_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[abboot.checks]\nown = some_plugin:Own\nnothing = some_plugin:nothing\nbroken = some_plugin_that_is_gone:X\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugins")
def test_a_plug_in_is_found_by_its_entry_point() -> None:
    checks = build_checks([spec("own")])

    assert watch(checks, deadline=5).checks[0].detail == "own"


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("kind", ["nothing", "broken", "missing"])
def test_a_plug_in_that_cannot_be_used_is_a_check_that_fails(kind: str) -> None:
    required, wanted = build_checks([spec(kind), spec(kind, required=False)])

    assert "cannot use the plug-in" in required.run().detail
    assert not required.run().ok
    assert (required.required, wanted.required) == (True, False)


def test_a_check_is_a_value_that_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        command("true").timeout_s = 3  # type: ignore[misc]
