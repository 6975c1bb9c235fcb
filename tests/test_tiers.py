"""The two tiers of tests: `make test` runs those that are not extended, CI runs all."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pytest_options(target: str) -> str:
    """Returns the arguments with which a target of the Makefile calls pytest."""
    # A make that runs the tests would pass its options to this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    [line] = [line for line in done.stdout.splitlines() if "-m pytest" in line]
    return line.partition("-m pytest")[2]


def test_make_test_runs_all_tests_that_are_not_extended():
    assert '-m "not extended"' in pytest_options("test")


def test_ci_runs_every_check_and_every_test():
    commands = re.findall(r"^make (.+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert commands == ["check", "audit AUDIT=--or-say-so", "test-all"]
    assert not re.search(r"(?<!\S)-[mk]\b|--deselect|--ignore", pytest_options("test-all"))
