"""How a server starts: the addresses that it may listen on, what it reports, and what other users of the machine cannot do."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tools.cluster.servers import GUNICORN, Server

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[1]
REFUSED = "Other machines can reach {} without authentication: set AUTH_JWT_… or ALLOW_UNSAFE=no_identity"
IDENTITY = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": "k" * 48,
    "AUTH_JWT_ISSUER": "https://issuer.example",
    "AUTH_JWT_AUDIENCE": "orderflow",
}

# Does what systemd does: passes descriptor 3 and the id of the process that shall use it.
SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
# Starts a program with a hard limit of file descriptors, and a soft limit of half as many.
LIMITED = """
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, most))
os.execv(sys.argv[2], sys.argv[2:])
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def start(tmp_path):
    """Run a server without a database until it listens or ends; returns its output and its process."""
    started = []

    def start(command=(), pass_fds=(), **environ):
        plain = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "MONGODB_URI": "mongodb://127.0.0.1:9/",
            "WEB_CONCURRENCY": "1",
        }
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"],
            cwd=ROOT,
            env={**plain, "TMPDIR": str(tmp_path), **environ},
            pass_fds=pass_fds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        output = []
        for line in process.stderr:
            output.append(line)
            if "Listening at" in line:
                break
        return "".join(output), process

    yield start
    for process in started:
        with process:
            process.terminate()


def address(output):
    return re.search(r"Listening at: (http\S+)", output)[1]


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        ("--bind 0.0.0.0:0", "0.0.0.0"),
        ("--bind [::]:0", "::"),
        ("--bind 127.0.0.1:0 --bind 0.0.0.0:0", "0.0.0.0"),
        ("-b :0", "0.0.0.0"),
        ("--bind 0.0.0.0:0 --reuse-port", "0.0.0.0"),
    ],
)
def test_an_unsafe_address_from_gunicorns_command_line_is_refused_as_from_bind(start, arguments, host):
    output, process = start(GUNICORN_CMD_ARGS=arguments)
    assert "Listening" not in output
    assert REFUSED.format(host) in output.splitlines()
    assert process.wait(30) == 1


@pytest.mark.parametrize("environ", [IDENTITY, {"ALLOW_UNSAFE": "no_identity"}, {"PUBLISHED_ON": "127.0.0.1"}])
def test_a_safe_address_from_gunicorns_command_line_is_used(start, environ):
    output, _ = start(GUNICORN_CMD_ARGS="--bind 0.0.0.0:0", **environ)
    assert address(output).startswith("http://0.0.0.0:")


@pytest.mark.parametrize(("host", "starts"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_that_is_passed_is_checked_by_its_address(start, host, starts):
    with socket.create_server((host, 0)) as passed:
        number = passed.fileno()
        output, _ = start(pass_fds=(number,), GUNICORN_CMD_ARGS=f"--bind fd://{number}")
        assert ("Listening at" in output) == starts
        assert (REFUSED.format(host) in output) != starts


@pytest.mark.parametrize(("host", "starts"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_from_systemd_is_checked_by_its_address(start, host, starts):
    with socket.create_server((host, 0)) as passed:
        output, _ = start([sys.executable, "-c", SYSTEMD, str(passed.fileno())], pass_fds=(passed.fileno(),))
        assert ("Listening at" in output) == starts
        assert (REFUSED.format(host) in output) != starts


@pytest.mark.parametrize("bind", ["::1", "[::1]", "127.0.0.1", "localhost"])
def test_the_loopback_address_may_have_any_form(start, bind):
    output, _ = start(BIND=bind)
    assert httpx.get(f"{address(output)}/healthz", trust_env=False, timeout=60).status_code == 200


def test_a_path_of_a_socket_is_on_this_machine(start, tmp_path):
    output, _ = start(GUNICORN_CMD_ARGS=f"--bind unix:{tmp_path}/socket")
    assert "Listening at: unix:" in output


def test_aliases_of_settings_are_reported_in_one_sentence(start):
    output, _ = start(
        MONGODB_URI="",
        MONGO_URL="mongodb://user:hunter2@127.0.0.1:9/",
        API_PORT="7123",
        MODULES="gateway,orders,payments",
        ORDERFLOW_DATA="/dev/null/nowhere",
    )
    [line] = [line for line in output.splitlines() if "are not read" in line]
    assert json.loads(line)["event"] == (
        "Some variables in the environment are not read: set MONGODB_URI instead of MONGO_URL"
    )
    assert "hunter2" not in output


def create_obstacles(folder):
    """Create what other users may put into a shared temporary folder; returns what must stay."""
    fifo = folder / "orderflow-metrics-fifo"
    fifo.mkdir()
    os.mkfifo(fifo / "lock")
    private = folder / "orderflow-metrics-fifo-in-a-private-folder"
    private.mkdir(mode=0o700)
    os.mkfifo(private / "lock")
    link = folder / "orderflow-metrics-link"
    link.symlink_to(private)
    (folder / "orderflow-metrics-file").touch()
    unreadable = folder / "orderflow-metrics-unreadable"
    unreadable.mkdir(mode=0o700)
    (unreadable / "lock").touch(mode=0)
    closed = folder / "orderflow-metrics-closed"
    closed.mkdir(mode=0)
    return [fifo, closed]


def test_files_of_others_in_the_temporary_folder_neither_prevent_a_start_nor_are_removed(start, tmp_path):
    stay = create_obstacles(tmp_path)
    output, _ = start(BIND="127.0.0.1")
    assert address(output)
    assert all(each.exists() for each in stay)


@only_root
def test_a_folder_of_another_user_is_left_alone(start, tmp_path):
    theirs = tmp_path / "orderflow-metrics-theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "lock").touch()
    os.chown(theirs, 65534, 65534)
    start(BIND="127.0.0.1")
    assert (theirs / "lock").exists()


@pytest.mark.parametrize("collection", ["orders", "payments", "ledger"])
def test_documents_of_another_program_stop_the_start_before_anything_is_changed(settings, database, collection):
    database[collection].insert_one({"userId": "u", "created_at": "2020-01-01"})
    environ = {**os.environ, "MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, "PORT": "0"}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--workers", "1"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    [line] = [line for line in ended.stdout.splitlines() if "another program" in line]
    assert f"The collection {settings.database}.{collection} holds documents of another program" in line
    assert "set MONGODB_DATABASE" in line
    assert "Traceback" not in ended.stdout + ended.stderr
    assert database[collection].options() == {}
    assert set(database[collection].index_information()) == {"_id_"}


def test_more_clients_than_file_descriptors_leave_enough_of_them_for_other_work(
    settings, tmp_path, new_order, eventually
):
    environ = {"MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, "WEB_CONCURRENCY": "1"}
    environ["REQUEST_DEADLINE"] = "10"  # A busy machine may make a command slow.
    limited = [sys.executable, "-c", LIMITED, "320", *GUNICORN]
    with (
        Server(tmp_path, environ, command=limited) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
        ExitStack() as crowd,
    ):
        [worker] = server.workers(1)
        eventually(lambda: client.get("/readyz").status_code == 200)
        for _ in range(400):
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        eventually(lambda: worker.num_fds() >= 80)
        for _ in range(3):
            answer = client.post("/orders", json=new_order(), headers={"Prefer": "wait=20"})
            assert answer.json()["order"]["orderStatus"] == "Success"
        assert worker.num_fds() < 160
        assert "Too many open files" not in server.log.read_text()


def test_with_enough_descriptors_a_worker_accepts_a_thousand_clients(start):
    output, process = start(
        [sys.executable, "-c", LIMITED, "1400"], BIND="127.0.0.1", GUNICORN_CMD_ARGS="--log-level=debug"
    )
    assert "worker_connections: 1000" in output
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] >= 1256


def test_the_lines_of_gunicorn_have_the_form_of_the_applications(start):
    output, _ = start(LOG_FORMAT="json")
    lines = [json.loads(line) for line in output.splitlines()]
    assert all(line.keys() >= {"event", "level", "timestamp"} and line["module"] == "server" for line in lines)
    assert {line["level"] for line in lines} >= {"info", "warning"}
    assert "no authentication" in output


def test_the_lines_of_gunicorn_are_readable_on_a_terminal(start):
    output, _ = start(LOG_FORMAT="console")
    assert re.search(r"^\S+ \[.*info.*\] .*Listening at: http", output, re.MULTILINE)
