"""The embedded database of a running server: it restarts whatever dies, and only its owner may access it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from app.storage import embedded_mongod
from tools.cluster.servers import Server

pytestmark = pytest.mark.extended

MEMORY = Path("/dev/shm")
NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def folder():
    """A data folder below one that other users may enter."""
    above = Path(tempfile.mkdtemp(prefix="orderflow-embedded-", dir=MEMORY if MEMORY.is_dir() else None))
    above.chmod(0o755)
    data = above / "data"
    data.mkdir(mode=0o755)
    yield data
    shutil.rmtree(above, ignore_errors=True)


@pytest.fixture
def server(folder):
    """A ready server with a database of its own; both are stopped afterwards."""
    with Server(folder, {"SWEEP_INTERVAL": "0.1"}) as running:
        yield running


def supervisor(server):
    return next(child for child in server.master.children() if "app.storage.embedded_mongod" in child.cmdline())


def mongod(server):
    """The running mongod, or None."""
    return next((one for one in psutil.process_iter(["cmdline"]) if on_folder(one, server)), None)


def on_folder(process, server):
    return f"--dbpath={server.log.parent / 'db'}" in (process.info["cmdline"] or [])


def log(server):
    return server.log.read_text()


def ready(server):
    return lambda: server.ready()


@pytest.fixture
def full_pipe():
    """The writing end of a full pipe that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b".")
    os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    os.close(reading)


@pytest.fixture
def place(server, new_order, eventually):
    """Place an order, again while one of the workers has not seen the database yet, and return its id."""

    def post():
        answer = httpx.post(f"{server.url}/orders", json=new_order(), headers={"Prefer": "wait=20"}, timeout=60)
        assert answer.status_code in (201, 503), answer.text
        return answer.json().get("created")

    return lambda: eventually(post)["id"]


@pytest.fixture
def status_of(server, eventually):
    """The status of an order that has settled, asked for again while a worker has not seen the database yet."""

    def get(order_id):
        answer = httpx.get(f"{server.url}/orders/status/{order_id}?wait=20", timeout=60)
        assert answer.status_code in (200, 503), answer.text
        status = answer.json().get("orderStatus")
        return status if status != "Processing" else None

    return lambda order_id: eventually(lambda: get(order_id), 60.0)


def kill_mongod(server):
    mongod(server).kill()


def kill_supervisor(server):
    supervisor(server).kill()


def kill_both(server):
    for process in (supervisor(server), mongod(server)):
        # mongod may end with its supervisor before it is killed.
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize(
    ("kill", "supervisors"),
    [(kill_mongod, 0), (kill_supervisor, 1), (kill_both, 1)],
    ids=["mongod", "the supervisor", "both"],
)
def test_it_restarts_with_all_data_whatever_was_killed(server, place, eventually, kill, supervisors, status_of):
    first = place()
    before = mongod(server)
    kill(server)
    eventually(lambda: mongod(server) not in (None, before), 60.0)
    eventually(ready(server), 60.0)
    assert status_of(first) == "Success"
    assert status_of(place()) == "Success"
    assert log(server).count("the supervisor of the embedded database has ended") == supervisors
    server.stop()
    assert mongod(server) is None


def test_it_restarts_as_soon_as_its_port_is_free_again(server, place, eventually, status_of):
    port = urlsplit(embedded_mongod.running_uri(server.log.parent)).port
    with socket.socket() as blocker:
        blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        supervising = supervisor(server)
        # Otherwise mongod might have its port again before it is taken.
        supervising.suspend()
        try:
            kill_mongod(server)
            eventually(lambda: bind_port(blocker, port), 60.0)
        finally:
            supervising.resume()
        eventually(lambda: log(server).count("the embedded database cannot be started, next try in") >= 2, 60)
        assert not server.ready()
    eventually(ready(server), 60)
    assert status_of(place()) == "Success"


def bind_port(blocker, port):
    """Whether the port could be taken."""
    try:
        blocker.bind(("127.0.0.1", port))
        blocker.listen()
    except OSError:
        return False
    return True


def test_it_ends_when_the_server_is_killed(server, eventually):
    server.kill()
    eventually(lambda: mongod(server) is None, 60.0)


def test_the_password_is_in_no_command_line_and_no_log(server):
    password = (server.log.parent / "mongod.password").read_text()
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if password in line]
    assert password not in log(server) + (server.log.parent / "mongod.log").read_text()


def test_operators_connect_by_the_folder(server, place):
    place()
    environ = {**os.environ, "ORDERFLOW_DATA": str(server.log.parent)}
    command = ["flask", "--app", "app.main", "doctor", "--json"]
    doctor = subprocess.run(
        [sys.executable, "-m", *command], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


@only_root
def test_another_user_of_this_machine_reads_and_changes_nothing(server, place):
    place()
    data = server.log.parent
    worker = server.workers()[-1].pid
    wanted = [data / "mongod.json", data / "mongod.password", data / "mongod.key", data / "server.log"]
    for command in (["ls", data], *(["cat", file] for file in (*wanted, Path(f"/proc/{worker}/environ")))):
        tried = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
        assert tried.returncode != 0, (command, tried.stdout)
        assert b"Permission denied" in tried.stderr
    with MongoClient("127.0.0.1", urlsplit(embedded_mongod.running_uri(data)).port, directConnection=True) as blocker:
        assert blocker.admin.command("ping")["ok"] == 1
        with pytest.raises(OperationFailure, match="requires authentication"):
            blocker.orderflow.orders.find_one()


def test_the_database_restarts_every_time_although_nobody_reads_the_log(folder, full_pipe, eventually):
    command = [sys.executable, "-m", "app.storage.embedded_mongod", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full_pipe) as supervising:
        try:
            assert supervising.stdout.readline()
            killed = set()
            for _ in range(2):
                killed.add(pid_of_mongod(folder))
                os.kill(pid_of_mongod(folder), signal.SIGKILL)
                eventually(lambda: embedded_mongod.running_uri(folder) and pid_of_mongod(folder) not in killed, 60.0)
        finally:
            supervising.kill()


def pid_of_mongod(folder):
    return json.loads((folder / "mongod.json").read_text())["pid"]
