"""The output of `make split`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.config import MODULES
from tools.cluster import rabbitmq
from tools.cluster.processes import free_port

pytestmark = [pytest.mark.extended, pytest.mark.long]


ROOT = Path(__file__).parents[3]
STAGE_LINE = re.compile(r"^  (\d)  \S+  (\w+) +(\d+) ", re.MULTILINE)


def run(folder, *command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.defpath, "ORDERFLOW_DATA": str(folder), "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_two_orders_go_through_three_of_four_processes_and_nothing_is_left(rabbit_installed, tmp_path):
    done = run(tmp_path, "-m", "tools.cluster", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = STAGE_LINE.findall(done.stdout)
    # A sweep may deliver an event again that was just delivered.
    assert {number for number, _, _ in stages} == {*"123456789"}
    assert len(stages) >= 18
    pids_by_module = {module: {pid for _, each, pid in stages if each == module} for module in MODULES}
    assert {module: len(pids) for module, pids in pids_by_module.items()} == {
        **dict.fromkeys(("gateway", "orders", "payments"), 1),
        "webhooks": 0,
    }
    assert re.search(r"^webhooks-1 ", done.stdout, re.MULTILINE)
    assert len(set.union(*pids_by_module.values())) == 3
    assert "is now Success" in done.stdout
    assert "is now Declined" in done.stdout
    assert not [one for one in psutil.process_iter(["environ"]) if str(tmp_path) in str(one.info["environ"])]


def test_without_rabbitmq_one_sentence_says_what_to_install(tmp_path):
    missing = (
        "from tools.cluster import __main__, rabbitmq\nrabbitmq.SCRIPT = rabbitmq.Path('/none')\nexit(__main__.main())"
    )
    done = run(tmp_path, "-c", missing)
    assert (done.returncode, done.stderr.strip()) == (2, rabbitmq.MISSING)
