"""A server whose log cannot be written goes on: orders are paid, requests are answered, nothing piles up."""

import os
import re
import signal
from contextlib import suppress

import pytest

from app.storage.embedded_mongod import Mongod
from tests.chaos.http_client import CLIENT
from tools.cluster.processes import free_port, send_signal
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long]

ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
SOON = 40.0
DATABASE = "orderflow"


class KillableMongod:
    """A mongod that can be killed and comes back with the same data on the same port."""

    def __init__(self, folder):
        self._folder, self._port = folder, free_port()
        self.restart()

    def restart(self):
        self._mongod = Mongod(self._folder, port=self._port)
        self.uri = self._mongod.start()

    def kill(self):
        self._mongod.kill()

    def stop(self):
        self._mongod.stop()


@pytest.fixture
def base(tmp_path):
    """A database of the test's own."""
    made = KillableMongod(tmp_path / "data")
    yield made
    made.stop()


@pytest.fixture
def log_reader(tmp_path):
    """The reading end of the server's log, which is a pipe."""
    os.mkfifo(tmp_path / "server.log")
    reader = os.open(tmp_path / "server.log", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    with suppress(OSError):
        os.close(reader)


def serve(folder, base, **environ):
    return Server(
        folder,
        {
            "MONGODB_URI": base.uri,
            "MONGODB_DATABASE": DATABASE,
            "LOG_LEVEL": "info",
            "RELAY_LEASE": "2",
            "PAYMENT_LEASE": "15",
            "PAYMENT_TIMEOUT": "2",
            "BACKGROUND_DEADLINE": "2",
            # A busy machine may make a command slow.
            "REQUEST_DEADLINE": "10",
            **environ,
        },
    )


def post(server):
    answer = CLIENT.post(f"{server.url}/orders", json=ORDER)
    assert answer.status_code == 201, answer.text
    return answer.json()["created"]["id"]


def post_ten(server, eventually):
    """Ten orders, each sent again while a worker has not seen yet that the database is back."""

    def accepted():
        answer = CLIENT.post(f"{server.url}/orders", json=ORDER)
        assert answer.status_code in (201, 503), answer.text
        return answer.json().get("created")

    return [eventually(accepted, SOON)["id"] for _ in range(10)]


def status(server, order_id):
    return CLIENT.get(f"{server.url}/orders/status/{order_id}").json().get("orderStatus")


def all_paid(server, orders):
    return lambda: {status(server, order_id) for order_id in orders} == {"Success"}


def dropped(server):
    text = CLIENT.get(f"{server.url}/metrics").text
    return sum(float(value) for value in re.findall(r"^orderflow_log_lines_dropped_total (\S+)", text, re.MULTILINE))


def restart_database(base, server, eventually):
    base.kill()
    eventually(lambda: CLIENT.get(f"{server.url}/readyz").status_code == 503, SOON)
    base.restart()
    eventually(server.ready, SOON)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_orders_are_paid_after_the_reader_of_the_log_has_gone(tmp_path, base, log_reader, eventually, log_format):
    with serve(tmp_path, base, LOG_FORMAT=log_format) as server:
        eventually(all_paid(server, [post(server)]), SOON)
        os.close(log_reader)
        restart_database(base, server, eventually)
        orders = post_ten(server, eventually)
        eventually(all_paid(server, orders), SOON)
        eventually(lambda: dropped(server) > 0, SOON)


def test_orders_are_paid_while_the_reader_of_the_log_reads_no_more(tmp_path, base, log_reader, eventually):
    with serve(tmp_path, base, LOG_FORMAT="json") as server:
        orders = [post(server) for _ in range(100)]  # Far more lines than a pipe holds.
        first, _ = before = server.workers(2)
        send_signal(first, signal.SIGKILL)
        eventually(lambda: set(server.workers(2)) - set(before), SOON)
        restart_database(base, server, eventually)
        orders += post_ten(server, eventually)
        eventually(all_paid(server, orders), SOON)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_orders_are_paid_while_the_disk_of_the_log_is_full(tmp_path, base, eventually, log_format):
    (tmp_path / "server.log").symlink_to("/dev/full")
    with serve(tmp_path, base, LOG_FORMAT=log_format) as server:
        restart_database(base, server, eventually)
        orders = post_ten(server, eventually)
        eventually(all_paid(server, orders), SOON)
        eventually(lambda: dropped(server) > 0, SOON)
