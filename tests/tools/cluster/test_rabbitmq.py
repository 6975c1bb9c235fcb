"""A RabbitMQ of one's own: only for us, as durable as it says, and gone with its owner."""

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
HOLD = """
import sys
from pathlib import Path
from tools.cluster.rabbitmq import Rabbit
with Rabbit(Path(sys.argv[1])) as rabbit:
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
    """A process that has a RabbitMQ, kills and restarts it when told so, and tells where it is; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()
    eventually(lambda: not left_of(folder), 30)


def left_of(folder):
    """Processes that have to do with a folder, which all that RabbitMQ starts name in their environment."""
    return [one.info["name"] for one in psutil.process_iter(["name", "environ"]) if names(one, str(folder))]


def names(process, text):
    return any(text in value for value in (process.info["environ"] or {}).values())


def connected(url, **changes):
    at = urlsplit(url)
    given = {"userid": at.username, "password": at.password, "virtual_host": at.path[1:], **changes}
    host = given.pop("host", at.hostname)
    return amqp.Connection(f"{host}:{at.port}", connect_timeout=5, **given)


def test_the_sessions_broker_lets_nobody_in_who_does_not_know_the_password(bus_url):
    for stranger in ({"password": "wrong"}, {"userid": "guest", "password": "guest"}, {"virtual_host": "/"}):
        with pytest.raises(amqp.AMQPError), connected(bus_url, **stranger):
            pass


def test_it_listens_on_one_address_alone(bus_url):
    with pytest.raises(ConnectionRefusedError):
        connected(bus_url, host="127.0.0.2").connect()


def test_erlangs_cookie_is_drawn_anew_at_each_start_and_for_its_owner_alone(owner, folder):
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
def test_what_a_durable_queue_has_confirmed_survives_kill_9_and_nothing_survives_the_owner(owner, folder, eventually):
    url = owner.stdout.readline().strip()
    with connected(url, confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_publish(amqp.Message("hello", delivery_mode=2), routing_key="kept")
    # RabbitMQ 3.10 writes down some moments later that a queue was made; killed before, it forgets it.
    eventually(lambda: all(b"kept" in file.read_bytes() for file in folder.glob("data/*/quorum/*/names.dets")))

    print("kill", file=owner.stdin, flush=True)
    assert owner.stdout.readline().strip() == url
    with connected(url) as connection:
        assert eventually(lambda: connection.channel().basic_get("kept", no_ack=True)).body == "hello"

    assert {"beam.smp", "erl_child_setup"} <= set(left_of(folder))
    os.kill(owner.pid, signal.SIGKILL)
    eventually(lambda: not left_of(folder), 30)


def test_without_rabbitmq_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(rabbitmq, "SCRIPT", tmp_path / "rabbitmq-server")
    assert not rabbitmq.installed()
    with pytest.raises(rabbitmq.RabbitMissing, match="apt-get install rabbitmq-server"):
        rabbitmq.Rabbit(tmp_path)


@pytest.mark.parametrize("name", ["Zoë", "it's"])
def test_a_folder_that_rabbitmq_cannot_live_in_is_refused(rabbit_installed, tmp_path, name):
    with pytest.raises(rabbitmq.BadFolder, match="cannot live in"):
        rabbitmq.Rabbit(tmp_path / name)
