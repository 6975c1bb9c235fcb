"""How a server starts: where it may listen, what it says of its environment, what others cannot do to it meanwhile."""

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

ROOT = Path(__file__).parents[1]
REFUSED = "Others can reach {} and nobody is asked who they are: set AUTH_JWT_… or ALLOW_UNSAFE=no_identity"
IDENTITY = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": "k" * 48,
    "AUTH_JWT_ISSUER": "https://issuer.example",
    "AUTH_JWT_AUDIENCE": "orderflow",
}

# What systemd does: it passes descriptor 3, and names the process that shall take it.
SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
# Starts a program that may have no more than so many descriptors, and is given half of them unasked.
LIMITED = """
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, most))
os.execv(sys.argv[2], sys.argv[2:])
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def start(tmp_path):
    """Run a server without a database until it listens or ends; what it has said, and its process."""
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
        said = []
        for line in process.stderr:
            said.append(line)
            if "Listening at" in line:
                break
        return "".join(said), process

    yield start
    for process in started:
        with process:
            process.terminate()


def address(said):
    return re.search(r"Listening at: (http\S+)", said)[1]


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
    said, process = start(GUNICORN_CMD_ARGS=arguments)
    assert "Listening" not in said
    assert REFUSED.format(host) in said.splitlines()
    assert process.wait(30) == 1


@pytest.mark.parametrize("environ", [IDENTITY, {"ALLOW_UNSAFE": "no_identity"}, {"PUBLISHED_ON": "127.0.0.1"}])
def test_where_it_is_allowed_gunicorns_command_line_counts(start, environ):
    said, _ = start(GUNICORN_CMD_ARGS="--bind 0.0.0.0:0", **environ)
    assert address(said).startswith("http://0.0.0.0:")


@pytest.mark.parametrize(("host", "starts"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_that_is_passed_is_judged_by_what_it_is_bound_to(start, host, starts):
    with socket.create_server((host, 0)) as passed:
        number = passed.fileno()
        said, _ = start(pass_fds=(number,), GUNICORN_CMD_ARGS=f"--bind fd://{number}")
        assert ("Listening at" in said) == starts
        assert (REFUSED.format(host) in said) != starts


@pytest.mark.parametrize(("host", "starts"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_from_systemd_is_judged_by_what_it_is_bound_to(start, host, starts):
    with socket.create_server((host, 0)) as passed:
        said, _ = start([sys.executable, "-c", SYSTEMD, str(passed.fileno())], pass_fds=(passed.fileno(),))
        assert ("Listening at" in said) == starts
        assert (REFUSED.format(host) in said) != starts


@pytest.mark.parametrize("bind", ["::1", "[::1]", "127.0.0.1", "localhost"])
def test_this_machine_is_listened_on_however_it_is_written(start, bind):
    said, _ = start(BIND=bind)
    assert httpx.get(f"{address(said)}/healthz", trust_env=False, timeout=60).status_code == 200


def test_a_path_of_a_socket_is_on_this_machine(start, tmp_path):
    said, _ = start(GUNICORN_CMD_ARGS=f"--bind unix:{tmp_path}/socket")
    assert "Listening at: unix:" in said


def test_other_programs_names_for_settings_are_named_in_one_sentence(start):
    said, _ = start(
        MONGODB_URI="",
        MONGO_URL="mongodb://user:hunter2@127.0.0.1:9/",
        API_PORT="7123",
        MODULES="gateway,orders,payments",
        ORDERFLOW_DATA="/dev/null/nowhere",
    )
    [line] = [line for line in said.splitlines() if "are not read" in line]
    assert line.endswith("Some variables in the environment are not read: set MONGODB_URI instead of MONGO_URL")
    assert "hunter2" not in said


def put_in_the_way(folder):
    """What a server finds in a folder for temporary files that everybody may write to."""
    fifo = folder / "orderflow-metrics-fifo"
    fifo.mkdir()
    os.mkfifo(fifo / "held")
    private = folder / "orderflow-metrics-fifo-in-a-private-folder"
    private.mkdir(mode=0o700)
    os.mkfifo(private / "held")
    link = folder / "orderflow-metrics-link"
    link.symlink_to(private)
    (folder / "orderflow-metrics-file").touch()
    unreadable = folder / "orderflow-metrics-unreadable"
    unreadable.mkdir(mode=0o700)
    (unreadable / "held").touch(mode=0)
    closed = folder / "orderflow-metrics-closed"
    closed.mkdir(mode=0)
    return [fifo, closed]


def test_what_others_put_into_the_temporary_folder_neither_hinders_a_start_nor_is_removed(start, tmp_path):
    stay = put_in_the_way(tmp_path)
    said, _ = start(BIND="127.0.0.1")
    assert address(said)
    assert all(each.exists() for each in stay)


@only_root
def test_a_folder_of_another_user_is_left_alone(start, tmp_path):
    theirs = tmp_path / "orderflow-metrics-theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "held").touch()
    os.chown(theirs, 65534, 65534)
    start(BIND="127.0.0.1")
    assert (theirs / "held").exists()


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


def test_more_clients_than_it_has_descriptors_leave_it_those_that_its_other_work_needs(
    settings, tmp_path, new_order, eventually
):
    environ = {"MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, "WEB_CONCURRENCY": "1"}
    limited = [sys.executable, "-c", LIMITED, "320", *GUNICORN]
    with (
        Server(tmp_path, environ, command=limited) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
        ExitStack() as crowd,
    ):
        [worker] = server.workers(1)
        assert client.get("/readyz").status_code == 200
        for _ in range(400):
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        eventually(lambda: worker.num_fds() >= 80)
        for _ in range(3):
            answer = client.post("/orders", json=new_order(), headers={"Prefer": "wait=20"})
            assert answer.json()["order"]["orderStatus"] == "Success"
        assert worker.num_fds() < 160
        assert "Too many open files" not in server.log.read_text()


def test_with_enough_descriptors_a_worker_takes_a_thousand_clients(start):
    said, process = start(
        [sys.executable, "-c", LIMITED, "1400"], BIND="127.0.0.1", GUNICORN_CMD_ARGS="--log-level=debug"
    )
    assert "worker_connections: 1000" in said
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] >= 1256
