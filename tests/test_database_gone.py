"""The database dies, hangs or has not started: every answer is 503, and everything works when it is back."""

import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from app.main import create_app, runtime
from app.storage.embedded_mongod import Mongod
from tools.cluster.processes import free_port

pytestmark = pytest.mark.extended

MEMORY = Path("/dev/shm")
UNKNOWN = "692000000000000000000000"


@pytest.fixture
def port():
    """A port on which nothing listens."""
    return free_port()


@pytest.fixture
def mongod(port):
    """A mongod of the test's own, not started; killed at the end even if it hangs."""
    folder = Path(tempfile.mkdtemp(prefix="orderflow-gone-", dir=MEMORY if MEMORY.is_dir() else None))
    own = Mongod(folder, port=port)
    yield own
    own.kill()
    own.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def serve(settings, mongod):
    """The application with this mongod, whether it runs or not, and short deadlines."""
    changed = replace(
        settings,
        mongodb_uri=mongod.uri,
        request_deadline=0.8,
        background_deadline=0.8,
        payment_timeout=1.0,
        payment_lease=3.5,
        log_level="error",
    )
    made = []

    def make(**changes):
        app = create_app(replace(changed, **changes))
        made.append(app)
        runtime(app).start()
        return app.test_client()

    yield make
    for app in made:
        runtime(app).stop()


@contextmanager
def killed(mongod):
    """The process has ended."""
    mongod.kill()
    yield
    mongod.start()


@contextmanager
def frozen(mongod):
    """The process accepts connections but does not answer."""
    process = psutil.Process(mongod.pid)
    process.suspend()
    try:
        while any(state_of(thread) != "T" for thread in Path(f"/proc/{mongod.pid}/task").iterdir()):
            time.sleep(0.001)
        yield
    finally:
        process.resume()


def state_of(thread):
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def place(new_order, eventually):
    """Place an order; on a busy machine a command may take longer than these short deadlines, and is repeated."""

    def post(client, **changes):
        def placed():
            answer = client.post("/orders", json=new_order(**changes))
            assert answer.status_code in (201, 503), answer.text
            return answer.status_code == 201 and answer.json["created"]["id"]

        return eventually(placed)

    return post


def answered(eventually, send):
    """The first answer that is none of an outage: a connection of before may break a request once more."""
    return eventually(lambda: (answer := send()).status_code != 503 and answer)


every_outage = pytest.mark.parametrize("outage", [killed, frozen])


def ready(client):
    return lambda: client.get("/readyz").status_code == 200


def settled(client, order_id, order_status):
    return lambda: client.get(f"/orders/status/{order_id}").get_json().get("orderStatus") == order_status


def check_unavailable(answer):
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1
    body = answer.get_json()
    assert (body["ok"], body["status"], body["code"]) == (False, 503, "unavailable")
    assert body["requestId"] == answer.headers["X-Request-Id"]
    assert not any(word in answer.text for word in ("127.0.0.1", "mongo", "Traceback", "Error"))


def requests_to_all_routes(new_order, order_id):
    """A request to each route that needs the database."""
    return [
        lambda client: client.post("/orders", json=new_order()),
        lambda client: client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}),
        lambda client: client.get(f"/orders/one/{order_id}"),
        lambda client: client.get(f"/orders/status/{order_id}"),
        lambda client: client.get("/orders/user-7"),
        lambda client: client.post(f"/orders/one/{order_id}/refunds", json={}),
        lambda client: client.get("/orders/one/" + UNKNOWN),
    ]


@every_outage
def test_every_route_answers_503_during_an_outage_and_works_afterwards(
    mongod, serve, outage, new_order, place, eventually
):
    mongod.start()
    client = serve()
    eventually(ready(client))
    order_id = place(client)
    eventually(settled(client, order_id, "Success"))
    with outage(mongod):
        for send in requests_to_all_routes(new_order, order_id):
            check_unavailable(send(client))
        assert client.get("/readyz").status_code == 503
        assert client.get("/readyz").get_json() == {
            "ok": False,
            "part": "database",
            "reason": "no primary answers within a second",
        }
        assert client.get("/healthz").status_code == 200
    eventually(ready(client), 60)
    sent = [partial(send, client) for send in requests_to_all_routes(new_order, order_id)]
    statuses = [answered(eventually, send).status_code for send in sent]
    assert statuses == [201, 200, 200, 200, 200, 409, 404]
    status = answered(eventually, lambda: client.get(f"/orders/status/{order_id}"))
    assert status.get_json()["orderStatus"] == "Cancelled"


@every_outage
def test_orders_from_before_an_outage_settle_after_it(mongod, serve, outage, place, eventually):
    mongod.start()
    # Slow enough that no payment is done when the database goes.
    client = serve(simulated_latency_ms=700)
    eventually(ready(client))
    expected = {place(client, productId=product): status for product, status in (("1", "Success"), ("2", "Declined"))}
    with outage(mongod):
        check_unavailable(client.get(f"/orders/one/{min(expected)}"))
    eventually(ready(client), 60)
    for order_id, order_status in expected.items():
        eventually(settled(client, order_id, order_status), 60)


@every_outage
def test_routes_without_the_database_work_during_an_outage(mongod, serve, outage, eventually):
    mongod.start()
    client = serve()
    eventually(ready(client))
    with outage(mongod):
        assert client.post("/orders", json={}).status_code == 422
        assert client.post("/orders", data="{", content_type="application/json").status_code == 400
        assert client.put("/orders", data="x").status_code == 415
        assert client.delete("/orders").status_code == 405
        assert client.get("/orders/one/nonsense").status_code == 404
        assert client.get("/nothing").status_code == 404
        assert client.get("/api").status_code == 200
        assert client.get("/api-json").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_many_clients_are_answered_while_the_database_hangs(mongod, serve, new_order, place, eventually):
    mongod.start()
    client = serve()
    eventually(ready(client))
    order_id = place(client)
    with frozen(mongod), ThreadPoolExecutor(48) as crowd:
        answers = crowd.map(
            lambda send: send(client.application.test_client()), requests_to_all_routes(new_order, order_id) * 8
        )
        for answer in answers:
            check_unavailable(answer)
    eventually(ready(client), 60)
    assert answered(eventually, lambda: client.get(f"/orders/one/{order_id}")).status_code == 200


def test_a_server_that_starts_before_the_database_works_once_it_has_started(
    mongod, serve, new_order, place, eventually
):
    client = serve()
    assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").get_json()["part"] == "collections"
    assert client.get("/healthz").status_code == 200
    check_unavailable(client.post("/orders", json=new_order()))
    check_unavailable(client.get(f"/orders/one/{UNKNOWN}"))
    mongod.start()
    eventually(ready(client), 60)
    eventually(settled(client, place(client), "Success"), 60)


def test_a_server_without_a_database_can_be_stopped(settings, port):
    app = create_app(replace(settings, mongodb_uri=f"mongodb://127.0.0.1:{port}/?replicaSet=orderflow"))
    runtime(app).start()
    stopping = threading.Thread(target=runtime(app).stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    assert app.test_client().get("/readyz").status_code == 503
    assert app.test_client().get("/readyz").get_json()["part"] == "process"
