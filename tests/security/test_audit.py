"""What is found before it runs: bandit in the code, known weaknesses in the packages, and no audit that only looks like one."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests.security import audit

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]


def test_bandit_finds_nothing():
    assert audit.bandit() == ""


def test_bandit_would_find_something(tmp_path, monkeypatch):
    (tmp_path / "weak.py").write_text("import pickle\npickle.loads(b'')\n")
    monkeypatch.setattr(audit, "CODE", (str(tmp_path),))
    assert "B301" in audit.bandit()


def test_every_exception_for_bandit_has_a_reason():
    lines = [
        (file.name, line)
        for file in [*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py"]
        for line in file.read_text().splitlines()
        if "nosec" in line
    ]
    assert lines
    for name, line in lines:
        reason, _, tests = line.partition("# nosec ")
        assert tests.startswith("B"), (name, line)
        assert len(reason.rpartition("#")[0].partition("#")[2] or reason.partition("#")[2]) > 10, (name, line)


def test_no_locked_package_has_a_weakness_that_was_known():
    assert audit.below_floors() == []


def test_a_package_below_its_floor_would_be_found(monkeypatch):
    monkeypatch.setattr(audit, "locked", lambda: {"jinja2": Version("3.1.5"), "idna": Version("3.7")})
    assert audit.below_floors() == ["jinja2 3.1.5 is below 3.1.6: CVE-2025-27516: a way out of the sandbox"]


@pytest.mark.parametrize(("skipped", "asked", "code"), [([], [], 0), (["x"], [], 1), (["x"], ["--or-say-so"], 0)])
def test_unavailable_advisories_are_reported_as_not_audited(monkeypatch, capsys, skipped, asked, code):
    monkeypatch.setattr(audit, "bandit", lambda: "")
    monkeypatch.setattr(audit, "pip_audit", lambda: ([], skipped))
    monkeypatch.setattr(sys, "argv", ["audit", *asked])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert ended.value.code == code
    assert ("NOT AUDITED" in capsys.readouterr().out) == bool(skipped)


def test_an_audit_that_fails_to_begin_audits_nothing(monkeypatch):
    nothing = subprocess.CompletedProcess([], 1, stdout="", stderr="no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: nothing)
    weak, skipped = audit.pip_audit()
    assert (weak, skipped) == ([], sorted(audit.locked()))
