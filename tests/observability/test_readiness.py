"""Why a process is not ready: the first part that is not is named, and the log has each change once."""

from types import SimpleNamespace

import pytest

from app.observability import readiness
from app.observability.readiness import ReadinessMonitor, UnreadyResult


@pytest.fixture
def reasons():
    return {"broker": "", "database": ""}


@pytest.fixture
def lines(monkeypatch):
    """The lines that are logged: level, event, the part, and the part that was not ready before."""
    found = []

    def at(level):
        return lambda event, **more: found.append((level, event, more.get("part"), more.get("was")))

    monkeypatch.setattr(readiness, "log", SimpleNamespace(info=at("info"), warning=at("warning")))
    return found


@pytest.fixture
def monitor(reasons):
    return ReadinessMonitor({part: lambda part=part: reasons[part] for part in reasons})


def check(monitor, lines):
    """What it says, and the lines that it logs when it is asked three times."""
    lines.clear()
    [found] = {monitor.check() for _ in range(3)}
    return found, [*lines]


def test_every_change_is_logged_once(monitor, reasons, lines):
    assert check(monitor, lines) == (None, [("info", "ready", None, None)])
    reasons["database"] = "it is away"
    away = UnreadyResult("database", "it is away")
    assert check(monitor, lines) == (away, [("warning", "not ready", "database", None)])
    reasons["database"] = "it is locked"
    assert check(monitor, lines)[1] == [("warning", "not ready", "database", None)]
    reasons["database"] = ""
    assert check(monitor, lines) == (None, [("info", "ready", None, "database")])


def test_the_first_part_that_is_not_ready_is_named(monitor, reasons, lines):
    reasons |= {"database": "it is away", "broker": "it is away too"}
    assert check(monitor, lines)[0].part == "broker"


def test_what_is_expected_is_no_warning(lines):
    ReadinessMonitor({"process": lambda: "it is stopping"}, expected="process").check()
    assert lines == [("info", "not ready", "process", None)]
