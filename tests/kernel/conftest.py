"""The last lines of `make vfat`: one per card, how many facts agree."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    callspec = getattr(item, "callspec", None)
    card = callspec.params.get("card") if callspec else None
    item.user_properties.append(("card", card.name if card else "broken on purpose"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    agree: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    for outcome, count in (("passed", agree), ("failed", differ), ("error", differ)):
        for report in terminalreporter.stats.get(outcome, ()):
            count.update(value for name, value in report.user_properties if name == "card")
    for card in dict.fromkeys([*agree, *differ]):
        verdict = f"{differ[card]} facts differ, {agree[card]} agree" if differ[card] else f"{agree[card]} facts agree"
        terminalreporter.write_line(f"{card:18} {verdict}", red=bool(differ[card]))
