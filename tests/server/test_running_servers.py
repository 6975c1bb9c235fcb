"""How commands find the running server: by its data folder, and never one that has ended."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import Settings
from app.server.running_servers import AddressRecord, RunningServer, client_url, find_servers, server_url
from app.server.taken_port import taken_port_hint

ROOT = Path(__file__).parents[2]
HERE = os.getpid()
ANNOUNCER = """
import os, sys
from pathlib import Path
from app.server.running_servers import AddressRecord, RunningServer
announced = AddressRecord(RunningServer("http://127.0.0.1:1", sys.argv[1], os.getpid()), [Path(sys.argv[1])])
print("announced", flush=True)
sys.stdin.read()
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def announced(tmp_path):
    """A server that is announced in a folder of its own."""
    server = RunningServer("http://127.0.0.1:7311", str(tmp_path / "data"), HERE)
    announcement = AddressRecord(server, [tmp_path / "data"])
    yield server
    announcement.withdraw()


@pytest.fixture
def other_process(tmp_path):
    """A process that is announced as the server of `tmp_path` until it ends."""
    command = [sys.executable, "-c", ANNOUNCER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"announced\n"
        yield process
        process.kill()


def test_a_running_server_is_found_in_its_data_folder(announced, tmp_path):
    assert find_servers(tmp_path / "data") == [announced]
    assert find_servers(tmp_path) == []
    assert server_url(Settings(data=tmp_path / "data")) == announced.url


def test_only_its_owner_reads_where_a_server_is(announced, tmp_path):
    [file] = (tmp_path / "data").glob("server-*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_server_that_was_killed_is_not_found_and_its_file_is_removed_by_the_next(other_process, tmp_path):
    [found] = find_servers(tmp_path)
    assert found.pid == other_process.pid
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert len(list(tmp_path.glob("server-*.json"))) == 1
    assert find_servers(tmp_path) == []
    assert server_url(Settings(data=tmp_path, port=7312)) == "http://127.0.0.1:7312"
    AddressRecord(RunningServer("http://127.0.0.1:2", str(tmp_path), HERE), [tmp_path]).withdraw()
    assert list(tmp_path.glob("server-*")) == []


def test_the_server_that_started_last_is_the_first(other_process, tmp_path):
    later = AddressRecord(RunningServer("http://127.0.0.1:2", str(tmp_path), HERE), [tmp_path])
    assert [server.pid for server in find_servers(tmp_path)] == [HERE, other_process.pid]
    later.withdraw()
    assert [server.pid for server in find_servers(tmp_path)] == [other_process.pid]


def test_the_server_of_another_data_folder_is_not_taken_for_this_one(tmp_path):
    """The folder of the checkout also has the servers of other folders."""
    elsewhere = RunningServer("http://127.0.0.1:2", str(tmp_path / "elsewhere"), HERE)
    announcement = AddressRecord(elsewhere, [tmp_path])
    assert find_servers(tmp_path) == [elsewhere]
    assert server_url(Settings(data=tmp_path)) == "http://127.0.0.1:7000"
    announcement.withdraw()


@pytest.mark.parametrize("content", ["", "{", '{"url": 1}', "[]"])
def test_a_file_that_nobody_understands_is_not_a_server(other_process, tmp_path, content):
    [file] = tmp_path.glob("server-*.json")
    file.write_text(content)
    assert find_servers(tmp_path) == []


@only_root
def test_a_file_of_another_user_is_not_a_server(other_process, tmp_path):
    [file] = tmp_path.glob("server-*.json")
    os.chown(file, 65534, 65534)
    assert find_servers(tmp_path) == []


def test_a_folder_that_cannot_be_written_does_not_prevent_a_start(tmp_path):
    (tmp_path / "file").touch()
    announcement = AddressRecord(RunningServer("http://127.0.0.1:2", "", HERE), [tmp_path / "file", tmp_path / "data"])
    assert len(find_servers(tmp_path / "data")) == 1
    announcement.withdraw()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7000"),
        ("0.0.0.0", "http://127.0.0.1:7000"),
        ("::", "http://[::1]:7000"),
        ("::1", "http://[::1]:7000"),
        ("[::1]", "http://[::1]:7000"),
        ("192.0.2.7", "http://192.0.2.7:7000"),
    ],
)
def test_a_client_on_this_machine_reaches_every_kind_of_address(tmp_path, host, url):
    assert client_url(host.strip("[]"), 7000) == url
    assert server_url(Settings(data=tmp_path, bind=host, allow_unsafe="no_identity")) == url


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_taken_port_gets_a_sentence(taken):
    hint = f"another program holds port {taken}: stop it, or choose another port, such as PORT={taken + 1}"
    assert taken_port_hint("127.0.0.1", taken) == hint


def test_a_free_port_and_an_address_of_another_machine_get_none(taken):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert taken_port_hint("127.0.0.1", free) == ""
    assert taken_port_hint("192.0.2.7", taken) == ""


@pytest.mark.parametrize(("platform", "named"), [("darwin", True), ("linux", False)])
def test_on_macos_the_program_that_holds_the_port_is_named(taken, monkeypatch, platform, named):
    monkeypatch.setattr("app.server.taken_port.AIRPLAY_PORTS", (taken,))
    assert ("AirPlay Receiver" in taken_port_hint("127.0.0.1", taken, platform)) == named
