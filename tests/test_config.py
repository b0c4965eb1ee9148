"""The configuration: its file, its errors, its printed form and its reference page."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.config import (
    SECTIONS,
    Config,
    DiskConfig,
    HealthConfig,
    RebootChannel,
    TrialConfig,
    VerifyConfig,
)
from abboot.config_file import ConfigProblem, InvalidConfig, load_config, parse_config, render_config
from abboot.core.check_spec import CheckSpec
from abboot.core.settings import LONGEST_S, SettingError, duration, settings_of, toml_key, toml_value, write_duration
from abboot.errors import ConfigError
from abboot.health import KINDS, IpVersion, build_checks

ROOT = Path(__file__).resolve().parent.parent

EXAMPLE = """\
[disk]
device = "/dev/mmcblk0"
selector = 1
slot_a = 2
slot_b = 3

[trial]
attempts = 2
reboot = "mailbox"
allow_unknown_bootloader = true

[health]
stable_for = 20
deadline = "1h"
interval = "500ms"

[[health.checks]]
kind = "http"
url = "http://localhost:8080/health"
timeout = "2.5s"

[[health.checks]]
kind = "free_space"
name = "room"
required = false
path = "/"
free = "64MiB"

[verify]
edited_by_system = ["config.txt"]
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text)
    return [str(problem) for problem in caught.value.errors]


def test_a_file_says_everything_that_can_be_said() -> None:
    assert parse_config(EXAMPLE) == Config(
        disk=DiskConfig(device="/dev/mmcblk0", selector=1, slot_a=2, slot_b=3),
        trial=TrialConfig(attempts=2, reboot=RebootChannel.MAILBOX, allow_unknown_bootloader=True),
        health=HealthConfig(
            stable_for_s=20.0,
            deadline_s=3600.0,
            interval_s=0.5,
            checks=(
                CheckSpec(
                    kind="http",
                    name="http http://localhost:8080/health",
                    timeout_s=2.5,
                    options={"url": "http://localhost:8080/health"},
                ),
                CheckSpec(
                    kind="free_space", name="room", required=False, options={"path": "/", "free": 64 * 1024 * 1024}
                ),
            ),
        ),
        verify=VerifyConfig(edited_by_system=("config.txt",)),
    )


def test_an_empty_file_and_no_file_mean_the_defaults(tmp_path: Path) -> None:
    assert parse_config("") == load_config(None) == load_config(str(tmp_path / "no"), missing_ok=True) == Config()
    assert Config().trial.attempts == 1
    assert Config().verify.edited_by_system[:2] == ("cmdline.txt", "config.txt")


def test_the_checks_of_a_file_can_be_built_as_they_are() -> None:
    http, room = build_checks(parse_config(EXAMPLE).health.checks)

    assert (type(http), http.timeout_s, http.required) == (KINDS["http"], 2.5, True)
    assert (type(room), room.name, room.required) == (KINDS["free_space"], "room", False)


def test_two_ports_of_one_host_are_two_checks() -> None:
    text = '[[health.checks]]\nkind = "tcp"\nport = 22\n[[health.checks]]\nkind = "tcp"\nport = 80\nhost = "::1"\n'

    assert [check.name for check in parse_config(text).health.checks] == ["tcp 22", "tcp ::1 80"]
    assert len(parse_config(text.replace('host = "::1"\n', "")).health.checks) == 2


def test_an_error_names_file_line_and_key_and_guesses_what_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            '[[health.checks]]\nkind = "tcp"\nport = 22\n\n[[health.checks]]\nkind = "tcp"\nport = 23\ntimout = 3\n'
        )

    assert str(caught.value) == (
        "cannot read abboot.toml: line 8: health.checks[1].timout: unknown key (did you mean 'timeout'?)"
    )
    assert caught.value.hint == ""


def test_all_errors_are_collected_in_the_order_of_their_lines() -> None:
    text = """\
[trail]
[health]
deadline = "soon"
stable_for = true
[[health.checks]]
kind = "htp"
[[health.checks]]
kind = "http"
status = [200, 1000]
[trial]
attempts = 6
reboot = "Auto"
"""
    assert problems_of(text) == [
        "line 1: trail: unknown key (did you mean 'trial'?)",
        'line 3: health.deadline: \'soon\' is not a duration: write "10s", "5min", "1h" or a number of seconds',
        'line 4: health.stable_for: true is not a duration: write "10s", "5min", "1h" or a number of seconds',
        "line 6: health.checks[0].kind: unknown kind (did you mean 'http'?)",
        "line 7: health.checks[1].url: is not set",
        "line 9: health.checks[1].status: 1000 is not an integer from 100 to 599",
        "line 11: trial.attempts: 6 is not an integer from 1 to 5",
        "line 12: trial.reboot: 'Auto' is not one of auto, mailbox, argument",
    ]


def test_the_hint_says_that_there_is_more() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config("a = 1\nb = 2\nc = 3\n")

    assert caught.value.hint == "2 more errors in this file: `abboot config check` lists them"
    assert caught.value.errors[2] == ConfigProblem(
        line=3, key="c", message=f"unknown key (there are {', '.join(SECTIONS)})"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[disk]\nslot_a = 3\nslot_b = 2", "line 3: disk.slot_b: 2 is not more than slot_a = 3"),
        ("[disk]\nslot_a = 2", "line 1: disk: set both slots or none: slot_b is not set"),
        ("[disk]\nselector = 2\nslot_a = 2\nslot_b = 3", "line 2: disk.selector: 2 is the number of a slot"),
        ('[disk]\ndevice = "mmcblk0"', "line 2: disk.device: 'mmcblk0' is not an absolute path"),
        ('[disk]\ndevice = "/dev/\\u0000"', "line 2: disk.device: '/dev/\\x00' holds the character U+0000"),
        ('[health]\nstable_for = "5min"', "line 2: health.stable_for: must be less than the deadline"),
        ("[health]\nstable_for = nan", "line 2: health.stable_for: nan is not a duration"),
        ("[health]\nstable_for = -1", "line 2: health.stable_for: -1 is not from 0s to 24h"),
        ("[health]\ninterval = 0", "line 2: health.interval: 0 is not from 100ms to 24h"),
        ("[health]\nchecks = 3", "line 2: health.checks: 3 is not an array of tables: write [[health.checks]]"),
        ("health = []", "line 1: health: an array of 0 is not a table: write [health]"),
        ("[[health.checks]]\nname = 'x'", "line 1: health.checks[0].kind: is not set"),
        (
            "[[health.checks]]\nkind = 'command'\nargv = []",
            "line 3: health.checks[0].argv: an array of 0 is not an array",
        ),
        (
            "[[health.checks]]\nkind = 'http'\nurl = 'file:///etc/shadow'",
            "line 3: health.checks[0].url: is not a URL such as http://localhost:8080/health",
        ),
        (
            "[[health.checks]]\nkind='unit'\nunit='a'\n[[health.checks]]\nkind='unit'\nunit='a'",
            "line 1: health.checks: two checks have the name 'unit a': give one another `name`",
        ),
        (
            '[verify]\nedited_by_system = ["../x"]',
            "line 2: verify.edited_by_system: '../x' is not a path inside the slot",
        ),
        ("[trial]\nattempts = 1\nattempts = 2", "line 3: cannot overwrite a value"),
        ("[trial\n", "line 1: expected ']' at the end of a table declaration"),
    ],
)
def test_what_cannot_be_is_refused(text: str, problem: str) -> None:
    found = problems_of(text)

    assert len(found) == 1
    assert found[0].startswith(problem)


def test_what_is_made_in_python_is_judged_in_the_same_way() -> None:
    with pytest.raises(SettingError):
        TrialConfig(attempts=9)
    with pytest.raises(SettingError):
        HealthConfig(stable_for_s=400.0)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_its_path_is_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "abboot.toml"
    path.write_text(EXAMPLE)
    assert load_config(str(path)) == parse_config(EXAMPLE)

    path.write_bytes(b"[disk]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match="line 2: byte 0xe9 is not UTF-8") as caught:
        load_config(str(path), missing_ok=True)
    assert str(path) in str(caught.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize("kind", ["folder", "fifo", "huge", "zero", "nul"])
def test_what_is_no_file_of_ours_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(b"#" * 1_000_000)
    target = {"zero": "/dev/zero", "nul": "a\0b"}.get(kind, str(path))

    with pytest.raises(ConfigError, match=r"^cannot read "):
        load_config(target)


# -- the way out and back --------------------------------------------------------------------------------------------

SECONDS = st.floats(0.1, 1000) | st.integers(1, 5000).map(float)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
ARGUMENTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
PATHS = TEXTS.map(lambda text: f"/{text}")
OPTIONS = {
    "command": st.fixed_dictionaries({"argv": st.lists(ARGUMENTS, min_size=1, max_size=4).map(tuple)}),
    "file": st.fixed_dictionaries({"path": PATHS}, optional={"contains": ARGUMENTS, "non_empty": st.booleans()}),
    "tcp": st.fixed_dictionaries({"port": st.integers(1, 65535)}, optional={"host": TEXTS}),
    "http": st.fixed_dictionaries(
        {"url": st.sampled_from(["http://localhost/", "https://[::1]:8443/a?b=c"])},
        optional={"status": st.just((200,))},
    ),
    "unit": st.fixed_dictionaries({"unit": TEXTS}),
    "no_failed_units": st.fixed_dictionaries({}, optional={"ignore": st.lists(TEXTS, max_size=3).map(tuple)}),
    "mount_writable": st.fixed_dictionaries({"path": PATHS}),
    "free_space": st.fixed_dictionaries({"path": PATHS, "free": st.integers(0, 2**61)}),
    "default_route": st.fixed_dictionaries(
        {}, optional={"ip": st.sampled_from(IpVersion), "interface": st.sampled_from(["eth0", "wlan0"])}
    ),
    "uptime": st.fixed_dictionaries({"at_least": SECONDS}),
}


@st.composite
def configs(draw: st.DrawFn) -> Config:
    numbers = sorted(draw(st.lists(st.integers(1, 128), min_size=3, max_size=3, unique=True)))
    selector, slot_a, slot_b = numbers if draw(st.booleans()) else (None, None, None)
    names = draw(st.lists(TEXTS, max_size=4, unique=True))
    checks = []
    for name in names:
        kind = draw(st.sampled_from(sorted(OPTIONS)))
        required, timeout_s = draw(st.booleans()), draw(SECONDS)
        checks.append(
            CheckSpec(
                kind=kind,
                name=name,
                required=required,
                timeout_s=timeout_s,
                retries=draw(st.integers(0, 100)),
                options=draw(OPTIONS[kind]),
            )
        )
    stable_for_s = draw(st.just(0.0) | SECONDS)
    return Config(
        disk=DiskConfig(device=draw(st.none() | PATHS), selector=selector, slot_a=slot_a, slot_b=slot_b),
        trial=TrialConfig(
            attempts=draw(st.integers(1, 5)),
            reboot=draw(st.sampled_from(RebootChannel)),
            allow_unknown_bootloader=draw(st.booleans()),
        ),
        health=HealthConfig(
            stable_for_s=stable_for_s,
            deadline_s=stable_for_s + draw(st.floats(1, 1000)),
            interval_s=draw(SECONDS),
            checks=tuple(checks),
        ),
        verify=VerifyConfig(
            edited_by_system=tuple(draw(st.lists(st.sampled_from(["config.txt", "a/b", "Ü x"]), max_size=3)))
        ),
    )


@given(configs(), st.booleans())
def test_what_is_shown_is_a_file_that_says_the_same(config: Config, comments: bool) -> None:
    text = render_config(config, comments=comments)

    tomllib.loads(text)
    assert parse_config(text) == config


def test_every_kind_of_check_takes_part_in_the_round_trip() -> None:
    assert OPTIONS.keys() == KINDS.keys()


@given(st.floats(0, LONGEST_S))
def test_a_duration_is_written_as_it_is_read(seconds: float) -> None:
    kind = duration()

    assert kind.read(tomllib.loads(f"x = {kind.write(seconds)}")["x"]) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (1, "1s"),
        (90, "90s"),
        (300, "5min"),
        (3600, "1h"),
        (2.5, "2.5s"),
        (301.71, "301.7s"),
        (86400, "24h"),
        (0.0004, "0.4ms"),
    ],
)
def test_a_duration_for_people_is_short(seconds: float, words: str) -> None:
    assert write_duration(seconds) == words


WORDS = (
    "[disk] [health] [[health.checks]] [verify] [trial] kind name url deadline checks = . , [ ] { } 1 -1e999 nan true"
)
FRAGMENTS = st.sampled_from(
    [*WORDS.split(), "\n", "\n", "\n", '"', '"http"', '""' + '"', "'" * 3, "1979-05-27", "ünïcödé"]
)
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(FRAGMENTS, max_size=30).map(" ".join) | st.text(max_size=100))
def test_garbage_is_only_ever_a_configuration_error(text: str) -> None:
    message, lines = outcome(text)

    assert message.startswith("cannot read abboot.toml: ") or not lines
    assert "\n" not in message
    assert all(0 <= line <= text.count("\n") + 1 for line in lines)


def outcome(text: str) -> tuple[str, list[int]]:
    """The message and the lines of the errors; any other exception is the caller's failure."""
    try:
        parse_config(text)
    except InvalidConfig as error:
        return str(error), [problem.line for problem in error.errors]
    return "", []


KEYS = sorted({row.key for owner in [*SECTIONS.values(), CheckSpec, *KINDS.values()] for row in settings_of(owner)})


@given(
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=4),
    st.sampled_from([*SECTIONS]),
)
def test_a_value_of_any_type_under_any_key_is_only_ever_a_configuration_error(
    kind: str, values: dict[str, Any], section: str
) -> None:
    rows = [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items() if not holds_none(value)]
    for head in (
        f"[{section}]",
        f'[[health.checks]]\nkind = "{kind}"' if "kind" not in values else "[[health.checks]]",
    ):
        _, lines = outcome("\n".join([head, *rows]))

        assert all(0 < line <= 2 + len(rows) for line in lines)


def holds_none(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(holds_none, inner))


# -- plug-ins and the page -------------------------------------------------------------------------------------------


def test_the_options_of_a_plug_in_are_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[abboot.checks]\nmodem = a_module_that_must_not_be_loaded:Modem\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = '[[health.checks]]\nkind = "modem"\nbands = [1, {deep = 2020-01-01}]\n"odd key" = 1.5\n'

    config = parse_config(text)

    assert config.health.checks[0].options == {"bands": [1, {"deep": dt.date(2020, 1, 1)}], "odd key": 1.5}
    assert parse_config(render_config(config)) == config


def test_the_reference_page_is_what_the_code_says() -> None:
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert (found.stdout, found.returncode) == ("", 0)


def test_every_setting_is_explained() -> None:
    rows = [row for owner in [*SECTIONS.values(), CheckSpec, *KINDS.values()] for row in settings_of(owner)]

    assert all(row.help.endswith(".") for row in rows)
    assert all(isinstance(getattr(Config(), name), owner) for name, owner in SECTIONS.items())
    assert attrs.fields_dict(Config).keys() == SECTIONS.keys()
