"""The private RabbitMQ server: it refuses strangers, is durable, and ends with its owner."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import psutil
import pytest

from tools.cluster import rabbitmq

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[3]
OWNER = """
import sys
from pathlib import Path
from tools.cluster.rabbitmq import RabbitMqServer
with RabbitMqServer(Path(sys.argv[1])) as rabbit:
    print(rabbit.url, flush=True)
    for line in sys.stdin:
        rabbit.kill()
        rabbit.restart()
        print(rabbit.url, flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a folder = 100 %"


@pytest.fixture
def owner(rabbit_installed, folder, eventually):
    """A process that owns a RabbitMQ, prints its URL, and kills and restarts it at each line of input; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()
    eventually(lambda: not left_of(folder), 60.0)


def left_of(folder):
    """Returns the processes with a folder in their environment, as all processes of a RabbitMQ have it."""
    return [one.info["name"] for one in psutil.process_iter(["name", "environ"]) if names(one, str(folder))]


def names(process, text):
    return any(text in value for value in (process.info["environ"] or {}).values())


def connected(url, **changes):
    at = urlsplit(url)
    options = {"userid": at.username, "password": at.password, "virtual_host": at.path[1:], **changes}
    host = options.pop("host", at.hostname)
    return amqp.Connection(f"{host}:{at.port}", connect_timeout=30, **options)


def test_the_sessions_broker_refuses_clients_without_the_password(bus_url):
    for stranger in ({"password": "wrong"}, {"userid": "guest", "password": "guest"}, {"virtual_host": "/"}):
        with pytest.raises(amqp.AMQPError), connected(bus_url, **stranger):
            pass


def test_it_listens_on_one_address_alone(bus_url):
    with pytest.raises(ConnectionRefusedError):
        connected(bus_url, host="127.0.0.2").connect()


def test_the_erlang_cookie_is_new_at_each_start_and_only_its_owner_can_read_it(owner, folder):
    cookies = []
    for _ in range(2):
        assert owner.stdout.readline().startswith("amqp://")
        cookie = folder / ".erlang.cookie"
        assert cookie.stat().st_mode & 0o777 == 0o400
        cookies.append(cookie.read_text())
        print("kill", file=owner.stdin, flush=True)
    assert all(re.fullmatch("[0-9a-f]{64}", cookie) for cookie in cookies)
    assert len({*cookies}) == 2


@pytest.mark.long
def test_confirmed_messages_survive_kill_9_and_no_process_survives_the_owner(owner, folder, eventually):
    url = owner.stdout.readline().strip()
    with connected(url, confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_publish(amqp.Message("hello", delivery_mode=2), routing_key="kept")
    # RabbitMQ 3.10 stores a new queue some moments later; killed before, it loses it.
    eventually(lambda: all(b"kept" in file.read_bytes() for file in folder.glob("data/*/quorum/*/names.dets")))

    print("kill", file=owner.stdin, flush=True)
    assert owner.stdout.readline().strip() == url
    with connected(url) as connection:
        assert eventually(lambda: connection.channel().basic_get("kept", no_ack=True)).body == "hello"

    assert {"beam.smp", "erl_child_setup"} <= set(left_of(folder))
    os.kill(owner.pid, signal.SIGKILL)
    eventually(lambda: not left_of(folder), 60.0)


def test_without_rabbitmq_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(rabbitmq, "SCRIPT", tmp_path / "rabbitmq-server")
    assert not rabbitmq.installed()
    with pytest.raises(rabbitmq.RabbitMqMissing, match="apt-get install rabbitmq-server"):
        rabbitmq.RabbitMqServer(tmp_path)


@pytest.mark.parametrize("name", ["Zoë", "it's"])
def test_a_folder_in_which_rabbitmq_cannot_run_is_refused(rabbit_installed, tmp_path, name):
    with pytest.raises(rabbitmq.InvalidFolder, match="cannot run in"):
        rabbitmq.RabbitMqServer(tmp_path / name)
