"""The unreliable way of notifications: each notice is taken once, and lost, doubled, late or reordered as the plan says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from app.payments.providers import signed_notifications
from app.storage.mongodb import Database
from tools.chaos.notifier import LATE, LOST, REFUSED, REVERSED, TAKEN, TWICE, UnreliableNotifier

COUNT = 40


@pytest.fixture
def intake():
    """The address of a server that takes notifications, what it has received, and the statuses of its next answers."""
    received, statuses = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                received.append((self.path, body, dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received, statuses
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def deliver(intake, database, settings):
    """Sends this many notices; returns the notifier's counts and the ids that arrived, in their order."""

    def delivered(lost, number=COUNT):
        url, received, _ = intake
        notices = [{"id": f"evt_{one}", "type": "payment.captured"} for one in range(number)]
        database.ledger.insert_one({"_id": "o:1", "orderId": "o", "notices": [{**one, "at": 0} for one in notices]})
        sender = UnreliableNotifier(lambda: url, lambda: settings.mongodb_uri, settings.database, Random(7), lost)
        sender.start()
        sender.stop()
        assert database.ledger.find_one({})["notices"] == []
        return sender.counts, [json.loads(body)["id"] for _, body, _ in received]

    return delivered


def test_a_share_is_lost_and_others_come_twice_late_and_in_another_order(deliver):
    counts, arrived = deliver(lost=0.3)

    assert min(counts[fate] for fate in (LOST, TWICE, LATE, REVERSED)) > 0
    assert len({*arrived}) == COUNT - counts[LOST]
    assert len(arrived) == counts[TAKEN] == COUNT - counts[LOST] + counts[TWICE]
    assert arrived != sorted(arrived, key=lambda one: int(one.removeprefix("evt_")))


def test_nothing_arrives_where_all_are_lost(deliver):
    counts, arrived = deliver(lost=1.0)

    assert (dict(counts), arrived) == ({LOST: COUNT}, [])


def test_what_was_not_taken_comes_again_and_what_was_refused_does_not(deliver, intake):
    intake[2][:] = [503, 400]
    counts, arrived = deliver(lost=0.0, number=3)

    assert (counts[REFUSED], len({*arrived})) == (1, 2)


def test_a_notification_is_signed_as_the_provider_signs_it(deliver, intake, database, settings):
    deliver(lost=0.0, number=1)
    path, body, headers = intake[1][0]
    opened = Database(settings.mongodb_uri, settings.database)
    try:
        secret, now = opened.secret("simulated-notifications"), opened.clock.now()
    finally:
        opened.close()

    message = signed_notifications.decode(body, headers, secret, now)
    assert (path, message.reference, message.order_id) == ("/providers/simulated/notifications", "sim_o:1", "o")
