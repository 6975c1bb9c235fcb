"""The RabbitMQ of a test session: started when a test needs it, once for all workers, and gone with the session."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

# On a busy machine a session takes long to start.
pytestmark = [pytest.mark.extended, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
# Two tests, one a worker: each creates a file when it runs, and waits until a pipe is written.
SESSION = """
import pathlib
import pytest

here = pathlib.Path(__file__).parent

@pytest.mark.parametrize("number", range(2))
def test_until_released(mongodb_uri{fixture}, number):
    (here / f"running-{{number}}").touch()
    (here / f"release-{{number}}").read_bytes()
"""


@pytest.fixture
def session(rabbit_installed, tmp_path, eventually):
    """Starts a session of two workers whose tests use the given fixture; returns when both tests run."""
    started, folders = [], []

    def start(fixture=""):
        (tmp_path / "test_session.py").write_text(SESSION.format(fixture=f", {fixture}" if fixture else ""))
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        for number in range(2):
            os.mkfifo(tmp_path / f"release-{number}")
        options = ["-c", str(tmp_path / "pytest.ini"), "-p", "tests.conftest", "-p", "no:cloudcoil", "-n", "2"]
        options += ["-p", "no:schemathesis", "--dist", "load", str(tmp_path / "test_session.py")]
        process = subprocess.Popen([sys.executable, "-m", "pytest", *options], cwd=ROOT, start_new_session=True)
        started.append(process)
        eventually(lambda: len([*tmp_path.glob("running-*")]) == 2, 180.0)
        # A session that is killed cannot remove the folder of its servers.
        [mongod] = servers_of(process)["mongod"]
        folders.append(Path(mongod.cwd()))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def servers_of(process):
    """Returns the processes of mongod and RabbitMQ that a session has started, by name."""
    found = {"mongod": [], "beam.smp": []}
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.get(one.name(), []).append(one)
    return found


def all_gone(servers):
    return lambda: not any(one.is_running() for each in servers.values() for one in each)


def release(folder):
    for number in range(2):
        (folder / f"release-{number}").write_bytes(b"")


def test_a_session_without_a_test_that_needs_it_starts_none(session, tmp_path):
    process = session()
    servers = servers_of(process)
    assert (len(servers["mongod"]), servers["beam.smp"]) == (1, [])
    release(tmp_path)
    assert process.wait(60) == 0


def test_workers_share_one_and_it_ends_with_the_session(session, tmp_path, eventually):
    process = session("bus_url")
    servers = servers_of(process)
    assert [len(each) for each in servers.values()] == [1, 1]
    release(tmp_path)
    assert process.wait(60) == 0
    eventually(all_gone(servers), 60.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_when_the_session_is_interrupted(session, eventually, number):
    process = session("bus_url")
    servers = servers_of(process)
    assert [len(each) for each in servers.values()] == [1, 1]
    process.send_signal(number)
    process.wait(60)
    eventually(all_gone(servers), 60.0)
