"""Reading and writing ``abboot.toml``; what may stand in it is declared in :mod:`abboot.config`.

Rules: a file is taken whole or not at all: every error is collected, with its line.  Without a file everything has its
default.  Source of the format: TOML 1.0.0.
"""

from __future__ import annotations

import os
import stat
import textwrap
from typing import TYPE_CHECKING, Any

import attrs

from abboot.config import SECTIONS, Config
from abboot.core.check_spec import CheckSpec
from abboot.core.settings import (
    Setting,
    SettingError,
    settings_of,
    shown,
    toml_key,
    toml_value,
)
from abboot.core.toml_lines import MAX_SIZE, KeyPath, TomlError, load_toml, nearest_line
from abboot.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_CHECKS = 64
MAX_PROBLEMS = 100


@attrs.frozen(kw_only=True)
class ConfigProblem:
    """One thing that is wrong in a configuration."""

    line: int  # from 1; 0 where no line is to blame
    key: str  # "health.checks[1].timeout", counted from 0; empty where no key is to blame
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class InvalidConfig(ConfigError):
    """A configuration is wrong; ``errors`` has everything that is, in the order of the lines."""

    def __init__(self, name: str, problems: Iterable[ConfigProblem]) -> None:
        self.errors = tuple(sorted(problems, key=lambda problem: problem.line))
        more = len(self.errors) - 1
        hint = f"{more} more error{'s' * (more > 1)} in this file: `abboot config check` lists them" if more else ""
        super().__init__(f"cannot read {name}: {self.errors[0]}", hint)


def load_config(path: str | None, *, missing_ok: bool = False) -> Config:
    """The configuration in the file ``path``; the defaults for ``None``, and for a missing file if that is ok.

    Raises:
        ConfigError: the file cannot be read.
        InvalidConfig: what it says cannot be.
    """
    if path is None or (missing_ok and not os.path.lexists(path)):
        return Config()
    return parse_config(read_text(path), path)


def read_text(path: str) -> str:
    """The text of a file that an operator wrote.

    Raises:
        ConfigError: it cannot be read, or is longer than any file of ours.
        InvalidConfig: it is not UTF-8.
    """
    try:
        # Not blocking: a FIFO would, for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"cannot read {path}: it is not a regular file")
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigError(f"cannot read {path}: no such file", "name a file that is there") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = str(getattr(error, "strerror", None) or error)
        raise ConfigError(f"cannot read {path}: {reason[:1].lower()}{reason[1:]}") from None
    if len(data) > MAX_SIZE:
        raise ConfigError(f"cannot read {path}: it is longer than {MAX_SIZE} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(
            path, [ConfigProblem(line=line, key="", message=f"byte 0x{data[error.start]:02x} is not UTF-8")]
        ) from None


def parse_config(text: str, name: str = "abboot.toml") -> Config:
    """The configuration that ``text`` says; ``name`` is for messages.

    Raises:
        InvalidConfig: with every problem that was found, not only the first.
    """
    try:
        data, lines = load_toml(text)
    except TomlError as error:
        raise InvalidConfig(name, [ConfigProblem(line=error.line, key="", message=str(error))]) from None
    reader = _Reader(lines=lines)
    config = reader.config(data)
    if reader.problems or config is None:
        raise InvalidConfig(name, reader.problems)
    return config


@attrs.define(kw_only=True)
class _Reader:
    """Collects problems; a value that has one is ``None``, and what depends on it is not judged."""

    lines: Mapping[KeyPath, int]
    problems: list[ConfigProblem] = attrs.field(factory=list)

    def problem(self, path: KeyPath, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(ConfigProblem(line=nearest_line(self.lines, path), key=_dotted(path), message=message))

    def config(self, data: dict[str, Any]) -> Config | None:
        self.unknown_keys((), data, SECTIONS)
        sections: dict[str, Any] = {}
        for name, owner in SECTIONS.items():
            table = data.get(name, {})
            if not isinstance(table, dict):
                self.problem((name,), f"{shown(table)} is not a table: write [{name}]")
                continue
            more = {"checks": self.checks(table["checks"])} if name == "health" and "checks" in table else {}
            own = {key: value for key, value in table.items() if key not in more}
            sections[name] = self.table((name,), own, owner, more)
        return None if self.problems else Config(**sections)

    def checks(self, value: object) -> tuple[CheckSpec, ...]:
        path: KeyPath = ("health", "checks")
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.problem(path, f"{shown(value)} is not an array of tables: write [[health.checks]]")
            return ()
        if len(value) > MAX_CHECKS:
            self.problem(path, f"{len(value)} checks, {MAX_CHECKS} are possible")
            return ()
        found = [self.check((*path, index), table) for index, table in enumerate(value)]
        return tuple(check for check in found if check is not None)

    def check(self, path: KeyPath, table: dict[str, Any]) -> CheckSpec | None:
        from abboot.health.checks import KINDS, plugin_exists

        kind = table.get("kind")
        if not isinstance(kind, str) or not kind:
            self.problem((*path, "kind"), f"{shown(kind)} is not a kind of check" if "kind" in table else "is not set")
            return None
        common = settings_of(CheckSpec)
        given = {row.key: table[row.key] for row in common if row.key in table}
        rest = {key: value for key, value in table.items() if key not in given}
        if kind in KINDS:
            before = len(self.problems)
            # An object of the kind judges its options; it needs a name, and the real one is judged below.
            made = self.table(path, {**rest, "name": "-"}, KINDS[kind], {}, also=[row.key for row in common])
            if len(self.problems) > before:
                return None
            rows = {row.key: row for row in settings_of(KINDS[kind])}
            options = {key: getattr(made, rows[key].field) for key in rest}
        elif plugin_exists(kind):
            options = rest  # its own code judges them, when the checks are built
        else:
            self.problem((*path, "kind"), _unknown("kind", kind, KINDS))
            return None
        first = next((value for value in options.values() if isinstance(value, str | tuple)), "")
        words = first if isinstance(first, str) else " ".join(map(str, first))
        port = options.get("port")  # too: of one host there is a check for each service
        name = " ".join(f"{kind} {words} {port if isinstance(port, int) else ''}".split())[:60]
        spec: CheckSpec | None = self.table(path, {"name": name, **given}, CheckSpec, {"options": options})
        return spec

    def table(
        self, path: KeyPath, table: Mapping[str, Any], owner: type[Any], more: dict[str, Any], also: Iterable[str] = ()
    ) -> Any:
        """An ``owner`` from a table of the file; ``None`` after a problem.  ``also``: other keys that may be there."""
        rows = {row.key: row for row in settings_of(owner)}
        before = len(self.problems)
        self.unknown_keys(path, table, [*rows, *more, *also])
        values: dict[str, Any] = dict(more)
        for key, row in rows.items():
            if key in table:
                try:
                    values[row.field] = row.type.read(table[key])
                except SettingError as error:
                    self.problem((*path, key), str(error))
            elif row.default is attrs.NOTHING:
                self.problem((*path, key), "is not set")
        if len(self.problems) > before:
            return None
        try:
            return owner(**values)
        except SettingError as error:
            self.problem((*path, error.key) if error.key else path, str(error))
            return None

    def unknown_keys(self, path: KeyPath, table: Mapping[str, Any], known: Iterable[str]) -> None:
        names = list(dict.fromkeys(known))
        for key in table:
            if key not in names:
                self.problem((*path, key), _unknown("key", key, names))


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word[:100], names, n=1)
    if near:
        return f"unknown {what} (did you mean {near[0]!r}?)"
    return f"unknown {what} (there are {', '.join(names)})"


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = toml_key(part[:100])
            text += f".{key}" if text else key
    return text


# -- writing ---------------------------------------------------------------------------------------------------------


def render_config(config: Config, *, comments: bool = True) -> str:
    """A TOML text that says everything that ``config`` does; :func:`parse_config` gives the same value back."""
    blocks = ["# abboot.toml"] if comments else []
    for name, owner in SECTIONS.items():
        section = getattr(config, name)
        blocks.append("\n".join([f"[{name}]", *_rows(settings_of(owner), section, comments)]))
    blocks[-1:-1] = [_render_check(check) for check in config.health.checks]
    return "\n\n".join(blocks) + "\n"


def _rows(rows: Iterable[Setting], owner: object, comments: bool) -> list[str]:
    lines: list[str] = []
    for row in rows:
        value = getattr(owner, row.field)
        if comments:
            lines += [f"# {line}" for line in textwrap.wrap(row.help, 98, break_on_hyphens=False)]
        if value is not None:
            lines.append(f"{row.key} = {row.type.write(value)}")
        elif comments:
            lines.append(f"# {row.key} = ...")
    return lines


def _render_check(check: CheckSpec) -> str:
    from abboot.health.checks import KINDS

    rows = {row.key: row for row in settings_of(KINDS[check.kind])} if check.kind in KINDS else {}
    lines = ["[[health.checks]]", *_rows(settings_of(CheckSpec), check, False)]
    for key, value in check.options.items():
        text = rows[key].type.write(rows[key].type.read(value)) if key in rows else toml_value(value)
        lines.append(f"{toml_key(key)} = {text}")
    return "\n".join(lines)
