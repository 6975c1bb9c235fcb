"""The command `orderflow`, as a user types it: it becomes the server, finds the running one, and refuses in sentences."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

# On a busy machine each of several commands may take long to start.
pytestmark = [pytest.mark.extended, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
ORDERFLOW = (sys.executable, "-m", "app")
PLAIN = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}
# A busy machine may make a command of the database slow.
PLAIN["REQUEST_DEADLINE"] = "10"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own, in whose folder no other test leaves the address of a server."""
    shutil.copytree(ROOT / "app", tmp_path / "checkout/app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.fixture
def orderflow(checkout):
    """Run the command to its end; returns its exit code, its output and its errors."""

    def run(*words, **environ):
        done = subprocess.run(
            [*ORDERFLOW, *words],
            cwd=checkout,
            env=PLAIN | environ,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def serve(checkout, tmp_path):
    """Start `orderflow run` with a database of its own; returns the process once it serves, and its address."""
    started = []

    def start(**environ):
        environ = {**PLAIN, "PORT": "0", "WEB_CONCURRENCY": "1", "LOG_FORMAT": "json"} | environ
        process = subprocess.Popen(
            [*ORDERFLOW, "run"],
            cwd=checkout,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        for line in process.stderr:
            if found := re.search(r'open (http://[^\s"]+)', line):
                return process, found[1]
        raise AssertionError(process.wait())

    yield start
    for process in started:
        with process:
            process.terminate()


def test_the_address_is_said_when_requests_are_served(serve, tmp_path):
    _, url = serve(ORDERFLOW_DATA=str(tmp_path / "data"))
    # A second attempt would say more about the test than about the server.
    assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200


@pytest.mark.extended
def test_commands_find_the_server_whatever_its_port_and_data_folder(serve, orderflow, tmp_path):
    data = str(tmp_path / "elsewhere")
    _, url = serve(ORDERFLOW_DATA=data)
    said = f"using the server at {url}, with its data in {data}\n"
    code, output, errors = orderflow("demo")
    assert (code, output.count("is now"), errors) == (0, 2, said), output
    code, output, errors = orderflow("load", "--orders", "3", "--json")
    assert (code, '"settled":3' in output, errors) == (0, True, said), output
    assert orderflow("doctor")[::2] == (0, said)
    code, output, errors = orderflow("demo", ORDERFLOW_DATA=data)
    assert (code, output.count("is now"), errors) == (0, 2, "")


@pytest.mark.extended
def test_several_servers_are_named_and_one_is_chosen_by_its_folder(serve, orderflow, tmp_path, eventually):
    folders = [str(tmp_path / name) for name in ("one", "two")]
    (first, first_url), (_, second_url) = (serve(ORDERFLOW_DATA=folder) for folder in folders)
    code, _, errors = orderflow("demo")
    assert code == 2
    assert f"ORDERFLOW_DATA={folders[0]}  {first_url}" in errors
    assert f"ORDERFLOW_DATA={folders[1]}  {second_url}" in errors
    assert orderflow("load", "--orders", "1", ORDERFLOW_DATA=folders[1])[0] == 0
    # A server that is killed leaves its file; nobody is sent there.
    first.send_signal(signal.SIGKILL)
    eventually(lambda: f"using the server at {second_url}" in orderflow("orders", "list")[2])


@pytest.mark.extended
def test_a_server_on_the_default_folder_comes_before_others(serve, orderflow, checkout, tmp_path):
    serve(ORDERFLOW_DATA=str(tmp_path / "elsewhere"))
    serve()
    code, output, errors = orderflow("demo")
    assert (code, output.count("is now"), errors) == (0, 2, "")
    assert len(list((checkout / ".orderflow").glob("server-*.json"))) == 2


def test_without_a_server_a_command_says_how_to_start_one(orderflow):
    code, _, errors = orderflow("demo", PORT="9")
    assert code == 3
    assert "no Orderflow answers at http://127.0.0.1:9" in errors
    assert "make run" in errors


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["run"], {"WEB_CONCURRENCY": "x"}, "WEB_CONCURRENCY must be a number"),
        (["run"], {"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY must be at least 1"),
        (["worker"], {"WEB_CONCURRENCY": "x"}, "WEB_CONCURRENCY must be a number"),
        (["run"], {"PORT": "70000"}, "PORT is 70000: a port is between 0 and 65535"),
        (["run"], {"BIND": "0.0.0.0"}, "Other machines can reach 0.0.0.0 without authentication"),
        (["check"], {"BIND": "0.0.0.0"}, "Other machines can reach 0.0.0.0 without authentication"),
        (["doctor"], {"PAYMENT_THREADS": "many"}, "PAYMENT_THREADS must be a number"),
        (["--help"], {"PAYMENT_THREADS": "many"}, "PAYMENT_THREADS must be a number"),
    ],
)
def test_an_invalid_setting_gets_one_sentence(orderflow, words, environ, said):
    code, output, errors = orderflow(*words, **environ)
    assert (code, output) == (1, "")
    [line] = errors.splitlines()
    assert line.startswith(f"Error: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["orders", "list", "--limit", "-3"], "-3 is not in the range 1<=x<=1000"),
        (["payments", "list", "--limit", "-3"], "-3 is not in the range 1<=x<=1000"),
        (["dead-letters", "list", "--limit", "-3"], "-3 is not in the range 1<=x<=1000"),
        (["doctor", "--grace", "-1"], "-1.0 is not in the range x>=0"),
        (["doctor", "--pause", "-1"], "-1.0 is not in the range x>=0"),
        (["demo", "--seconds", "-1"], "-1.0 is not in the range x>=0"),
        (["load", "--settle", "-1"], "-1.0 is not in the range x>=0"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_an_invalid_option_gets_one_sentence(orderflow, words, said):
    code, output, errors = orderflow(*words)
    # For the doctor, 2 means that a person is needed.
    assert (code, output) == (64 if words[0] == "doctor" else 2, "")
    [line] = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert said in line


def test_valid_settings_are_confirmed_and_nothing_starts(orderflow, checkout):
    assert orderflow("check") == (0, "the settings are valid\n", "")
    assert not (checkout / ".orderflow").exists()


def test_a_key_that_cannot_be_used_is_refused_before_a_start(orderflow):
    identity = {"AUTH_JWT_ALGORITHM": "RS256", "AUTH_JWT_ISSUER": "https://i.example", "AUTH_JWT_AUDIENCE": "o"}
    code, output, errors = orderflow("check", AUTH_JWT_KEY="no key", **identity)
    assert (code, output, len(errors.splitlines())) == (1, "", 1)
    assert "AUTH_JWT_KEY" in errors


def test_help_lists_the_commands_of_server_and_application(orderflow):
    output = orderflow("--help")[1]
    assert {line.split()[0] for line in output.partition("Commands:\n")[2].splitlines()} >= {
        *("run", "worker", "check", "demo", "load", "doctor", "orders", "payments", "dead-letters"),
    }


def test_a_server_whose_port_is_taken_says_what_to_do(checkout):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {**PLAIN, "PORT": str(port), "MONGODB_URI": "mongodb://127.0.0.1:9/"}
        with subprocess.Popen(
            [*ORDERFLOW, "run"], cwd=checkout, env=environ, stderr=subprocess.PIPE, text=True
        ) as process:
            said = next(line for line in process.stderr if "another program holds" in line)
            process.terminate()
    assert f"another program holds port {port}: stop it, or choose another port, such as PORT={port + 1}" in said
