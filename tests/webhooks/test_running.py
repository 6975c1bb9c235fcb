"""The module in the application: where it runs, what its process says of it, and that nothing of it runs where it is off."""

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import kombu
import pytest
from pymongo.errors import OperationFailure

from app.main import create_app, runtime
from app.observability.supervision import BackgroundThread
from app.orders.documents import CHANGES
from app.webhooks.endpoint_repository import EndpointRepository

pytestmark = pytest.mark.extended

THREADS = {"orders-subscribers", "orders-changes", "webhooks-sweep"}


@contextmanager
def serving(settings, eventually):
    """The application, started."""
    app = create_app(settings)
    runtime(app).start()

    def ready() -> bool:
        unready = runtime(app).unready()
        return unready is None or unready.part == "webhooks"

    try:
        eventually(ready)
        yield app
    finally:
        runtime(app).stop()


def threads(app) -> set[str]:
    return {heartbeat.name for heartbeat in runtime(app)._heartbeats}


def traces(database) -> int:
    """How many orders have anything of webhooks."""
    return database.orders.count_documents(
        {"$or": [{name: {"$exists": True}} for name in (CHANGES.events, CHANGES.due)]}
    )


@pytest.mark.parametrize("off", [{"webhooks": False}, {"modules": "gateway,orders,payments"}], ids=str)
def test_where_it_is_off_nothing_of_it_runs_and_no_order_knows_of_it(settings, place, database, eventually, off):
    with serving(replace(settings, **off), eventually) as app:
        assert not threads(app) & THREADS
        client = app.test_client()
        order_id = place(client)
        assert traces(database) == 0
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["orderStatus"] == "Success")
        assert traces(database) == 0
        assert client.get("/webhooks/endpoints").status_code == 404
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert 'module="webhooks"' not in client.get("/metrics").text
        assert not {"webhook_endpoints", "webhook_deliveries"} & {*database.list_collection_names()}


def test_without_endpoints_no_order_has_a_further_write(settings, place, database, eventually):
    with serving(settings, eventually) as app:
        subscribed = runtime(app).modules["orders"]._subscribed
        eventually(lambda: "user-7" not in subscribed)
        order_id = place(app.test_client())
        assert traces(database) == 0
        client = app.test_client()
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["orderStatus"] == "Success")
        assert (traces(database), database.webhook_deliveries.count_documents({})) == (0, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", sorted(THREADS))
def test_a_thread_that_dies_is_noticed(settings, eventually, monkeypatch, name):
    run = BackgroundThread._run

    def die(thread):
        if thread.name == name:
            raise SystemExit
        run(thread)

    monkeypatch.setattr(BackgroundThread, "_run", die)
    with serving(settings, eventually) as app:
        eventually(lambda: [heartbeat.name for heartbeat in runtime(app).failing()] == [name])
        assert app.test_client().get("/healthz").status_code == 503


def test_metrics_tell_what_waits_and_for_how_long(settings, place, database, eventually):
    with serving(settings, eventually) as app:
        at = database.command("hello")["localTime"]
        # A sender would take at once what is due; a sweep that has begun before ends first.
        sender = runtime(app).modules["webhooks"].sender
        sender._deliveries.claim_due = lambda *_: ([], False)
        swept = sender.thread.beats
        eventually(lambda: sender.thread.beats > swept)
        database.webhook_endpoints.insert_many([endpoint("we_1", database), endpoint("we_2", database, failing=True)])
        database.webhook_deliveries.insert_many(
            [
                delivery("a", "we_1", at, at - timedelta(hours=1)),
                delivery("b", "we_2", at, at - timedelta(hours=2)),
                delivery("c", "we_1", at, at + timedelta(hours=1), tries=3),
            ]
        )
        client = app.test_client()

        def told():
            lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
            return lines.get('orderflow_backlog_due{module="webhooks"}') == "1.0" and lines

        lines = eventually(told)
        assert float(lines['orderflow_backlog_oldest_seconds{module="webhooks"}']) >= 3600
        assert lines['orderflow_retries_pending{module="webhooks"}'] == "1.0"
        assert lines['orderflow_webhook_endpoints_disabled_total{reason="gone"}']


def endpoint(name, database, failing=False):
    at = database.command("hello")["localTime"]
    doc = {
        "_id": name,
        "userId": "u",
        "url": "https://shop.example/",
        "description": "",
        "events": ["*"],
        "secrets": [],
    }
    return {**doc, "version": 1, "createdAt": at, "changedAt": at, **({"failingSince": at} if failing else {})}


def delivery(name, endpoint_id, at, due, **members):
    doc = {"_id": name, "endpointId": endpoint_id, "eventId": name, "type": "order.created", "body": "{}", "tries": 0}
    return {**doc, "status": "pending", "createdAt": at, "dueAt": due, **members}


def refuse(*_):
    raise OperationFailure("not authorized on webhooks to execute command find", 13)


def test_a_process_of_its_own_says_that_it_cannot_read_its_endpoints(
    settings, bus_url, bus_prefix, eventually, monkeypatch
):
    apart = replace(settings, modules="webhooks", bus_url=bus_url, bus_prefix=bus_prefix)
    with serving(apart, eventually) as app:
        client = app.test_client()
        eventually(lambda: client.get("/readyz").status_code == 200)
        monkeypatch.setattr(EndpointRepository, "changed_since", refuse)
        # On a busy machine another part may be late first.
        eventually(
            lambda: (answer := client.get("/readyz")).status_code == 503 and answer.json.get("part") == "webhooks"
        )
        monkeypatch.undo()
        eventually(lambda: client.get("/readyz").status_code == 200)


def test_clients_are_served_whether_or_not_anybody_is_told(settings, place, eventually, monkeypatch):
    monkeypatch.setattr(EndpointRepository, "changed_since", refuse)
    with serving(settings, eventually) as app:
        client = app.test_client()
        eventually(lambda: client.get("/readyz").status_code == 200)
        order_id = place(client)
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["orderStatus"] == "Success")


@pytest.fixture
def queues(bus_url, bus_prefix):
    """Whether the queue of the module's events is declared."""

    def declared() -> bool:
        with kombu.Connection(bus_url) as connection:
            try:
                connection.channel().queue_declare(f"{bus_prefix}.webhooks.events", passive=True)
            except connection.channel_errors:
                return False
        return True

    return declared


def test_off_between_processes_the_broker_knows_nothing_of_it(
    settings, bus_url, bus_prefix, queues, place, database, eventually
):
    apart = replace(settings, webhooks=False, modules="gateway,orders,payments", bus_url=bus_url, bus_prefix=bus_prefix)
    with serving(apart, eventually) as app:
        client = app.test_client()
        order_id = place(client)
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["orderStatus"] == "Success")
        assert (traces(database), queues()) == (0, False)


def test_orders_go_on_until_its_first_process_comes_and_then_all_is_told(
    settings, bus_url, bus_prefix, queues, receiver, place, database, eventually
):
    """An upgrade in the wrong order: gateway and orders know of webhooks, and no process runs it yet."""
    apart = replace(
        settings, bus_url=bus_url, bus_prefix=bus_prefix, allow_unsafe="webhook_http", background_deadline=1.0
    )
    with serving(replace(apart, modules="gateway,orders,payments"), eventually) as app:
        client = app.test_client()
        order_id = place(client)
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["orderStatus"] == "Success")
        refunds = f"/orders/one/{order_id}/refunds"
        assert client.post(refunds, json={"amount": "RM 9"}).status_code == 201
        eventually(lambda: client.get(refunds).json["refunds"][0]["status"] == "succeeded")
        assert queues()
        assert traces(database) == 1
        with serving(replace(apart, modules="webhooks"), eventually):
            added = eventually(
                lambda: (
                    (answer := client.post("/webhooks/endpoints", json={"url": receiver.url})).status_code == 201
                    and answer
                )
            )
            assert added.json["endpoint"]["id"]
            eventually(lambda: traces(database) == 0, 60.0)
            # Orders may have asked last before the endpoint was added.
            eventually(lambda: runtime(app).modules["orders"]._subscribed._all)
            second = place(client)

            def told():
                bodies = [json.loads(request.body) for request in [*receiver.requests]]
                return {"order.created", "order.succeeded"} <= {
                    body["type"] for body in bodies if body["data"]["order"]["id"] == second
                }

            eventually(told, 60.0)
            eventually(lambda: traces(database) == 0, 60.0)


def test_a_version_before_it_can_follow_after_the_switch(settings, place, database, eventually):
    """The validator of such a version knows no member of webhooks, so no order may have one."""
    before = create_app(settings)
    runtime(before).prepare()
    place(before.test_client())
    assert traces(database) == 1
    runtime(before).stop()
    with serving(replace(settings, webhooks=False), eventually):
        eventually(lambda: traces(database) == 0)
    schema = database.orders.options()["validator"]["$jsonSchema"]
    schema.pop("allOf")
    for name in (CHANGES.events, *CHANGES.of_relay):
        del schema["properties"][name]
    assert database.orders.count_documents({"$nor": [{"$jsonSchema": schema}]}) == 0
