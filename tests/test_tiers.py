"""The two tiers of tests: every day those that are not extended, and in CI all."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pytest_options(target: str) -> str:
    """What a target of the Makefile calls pytest with."""
    # A make that runs the tests would speak to this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    [line] = [line for line in done.stdout.splitlines() if "-m pytest" in line]
    return line.partition("-m pytest")[2]


def test_every_day_all_tests_run_that_are_not_extended():
    assert '-m "not extended"' in pytest_options("test")


def test_ci_runs_every_check_and_every_test():
    commands = re.findall(r"^make (.+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert commands == ["check", "audit AUDIT=--or-say-so", "test-all"]
    assert not re.search(r"(?<!\S)-[mk]\b|--deselect|--ignore", pytest_options("test-all"))
