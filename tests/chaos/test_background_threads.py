"""A server whose background threads are killed, or make no progress, goes on paying; a stalled worker is replaced."""

import re
import textwrap

import httpx
import pytest

from tests.chaos.http_client import CLIENT
from tools.cluster.processes import ROOT
from tools.cluster.servers import GUNICORN, Server

pytestmark = [pytest.mark.extended, pytest.mark.long]

ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
SOON = 60.0
# The server's own configuration, and a hook that only this test has: a file by a method's name makes its next call fail.
CONFIGURATION = """
import os, threading
exec(compile(open({own!r}).read(), {own!r}, "exec"))
_post_worker_init = post_worker_init

def _sabotage(owner, method, name):
    original = getattr(owner, method)
    def sabotaged(*args, **kwargs):
        for deed in ("kill", "stall"):
            try:
                os.unlink(os.path.join({folder!r}, deed + "-" + name))
            except FileNotFoundError:
                continue
            if deed == "kill":
                raise SystemExit
            threading.Event().wait()
        return original(*args, **kwargs)
    setattr(owner, method, sabotaged)

def post_worker_init(worker):
    running = worker.wsgi.extensions["orderflow"]
    _sabotage(running.modules["orders"].outbox, "dequeue_local", "orders-relay")
    _sabotage(running.modules["payments"].outbox, "dequeue_local", "payments-relay")
    _sabotage(running.modules["payments"].worker, "time_out_calls", "payments-sweep")
    _sabotage(running.feed, "_send_lines", "live-feed")
    _sabotage(running._metrics_flusher, "flush", "metrics-flusher")
    _sabotage(running, "prepare", "start")
    _post_worker_init(worker)
"""
THREADS = ("orders-relay", "payments-relay", "payments-sweep", "live-feed", "metrics-flusher", "start")


@pytest.fixture
def serve(tmp_path, settings):
    """Makes a server with one worker, in which threads can be killed and stalled; it may be stalled for so many seconds."""
    configuration = tmp_path / "conf.py"
    own = str(ROOT / "gunicorn.conf.py")
    configuration.write_text(textwrap.dedent(CONFIGURATION).format(own=own, folder=str(tmp_path)))
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "WEB_CONCURRENCY": "1",
        # A busy machine may make a command slow.
        "REQUEST_DEADLINE": "10",
        "PAYMENT_TIMEOUT": "1",
        "BACKGROUND_DEADLINE": "1",
        "PAYMENT_LEASE": "3.5",
        "RELAY_LEASE": "2",
    }
    command = (*GUNICORN[:-1], str(configuration))
    return lambda seconds: Server(tmp_path, {**environ, "BACKGROUND_STALL": seconds}, command=command)


def post(server):
    answer = CLIENT.post(f"{server.url}/orders", json=ORDER)
    assert answer.status_code == 201, answer.text
    return answer.json()["created"]["id"]


def paid(server, order_id):
    def look():
        try:
            answer = CLIENT.get(f"{server.url}/orders/status/{order_id}")
        except httpx.TransportError:
            return False
        return answer.json().get("orderStatus") == "Success"

    return look


def counted(server, metric):
    """How often a metric counted something, by thread."""
    text = CLIENT.get(f"{server.url}/metrics").text
    values = re.findall(rf'^{metric}{{thread="(\S+)"}} (\S+)', text, re.MULTILINE)
    return {name: float(value) for name, value in values if float(value)}


def test_every_background_thread_goes_on_after_it_was_killed_from_inside(serve, tmp_path, eventually):
    (tmp_path / "kill-start").touch()
    # No thread is taken for stalled because the machine is busy.
    with serve("100") as server:
        [worker] = server.workers()
        for name in THREADS:
            (tmp_path / f"kill-{name}").touch()
        (tmp_path / "kill-start").unlink()
        eventually(lambda: not list(tmp_path.glob("kill-*")), SOON)
        eventually(paid(server, post(server)), SOON)
        eventually(lambda: counted(server, "orderflow_thread_failures_total").keys() == set(THREADS), SOON)
        assert server.workers() == [worker]
        assert CLIENT.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.parametrize("name", ["orders-relay", "payments-sweep"])
def test_a_worker_whose_thread_makes_no_progress_is_replaced_and_its_orders_are_paid(serve, tmp_path, eventually, name):
    with serve("12") as server:
        [worker] = server.workers()
        (tmp_path / f"stall-{name}").touch()
        eventually(lambda: not list(tmp_path.glob("stall-*")), SOON)
        order_id = post(server)
        eventually(lambda: worker not in server.workers(), SOON)
        eventually(paid(server, order_id), SOON)
        eventually(lambda: counted(server, "orderflow_workers_replaced_total") == {name: 1.0}, SOON)
