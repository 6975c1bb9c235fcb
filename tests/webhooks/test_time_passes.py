"""Days pass: the whole schedule of attempts, an endpoint that fails for days, one that is disabled for a while, a secret that ends."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook

from app.contracts.webhooks import ChangeEndpoint, FindEndpoint, ReplayDeliveries, RotateSecret
from tests.stepwise_pool import StepwisePool
from tests.stopped_clock import StoppedClock
from tests.webhooks.conftest import Process, a_change
from tests.webhooks.receiver import Received, Receiver, running

ME = {"request_id": "", "on_behalf_of": "shop"}
HOUR = 3600.0
DAY = 24 * HOUR


class Calendar(StoppedClock):
    """The machine's clock and the database's, which both stand still until a test moves them; attempts are made when it says so."""

    def __init__(self) -> None:
        # The database deletes what is old by its own clock.
        self.at = datetime.now(UTC).replace(microsecond=0)
        self.pool = StepwisePool()

    def thread_pool(self, _threads: int, _name: str) -> StepwisePool:
        return self.pool

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        self.at += timedelta(seconds=seconds)


class DatabaseTime:
    """The database's clock."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar

    def now(self) -> datetime:
        return self._calendar.at


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def process(make_process, calendar) -> Process:
    """A process that does nothing by itself."""
    return make_process(calendar, DatabaseTime(calendar))


@pytest.fixture
def work(process, calendar):
    """What the threads of the process do: a round of the sweep, and every attempt."""

    def run() -> None:
        process.module.sender.settle_held()
        process.module.sender.sweep()
        calendar.pool.run()

    return run


@pytest.fixture
def receiver():
    """A receiver that fails until a test says otherwise."""
    with running(Receiver(answer=lambda *_: (500, {}, b""))) as made:
        yield made


def takes(receiver: Receiver) -> None:
    receiver.answer = lambda *_: (204, {}, b"")


def change(process, endpoint, **members):
    process.bus.request(ChangeEndpoint(endpoint_id=endpoint.id, members=tuple(members), **members, **ME))


def is_enabled(process, endpoint) -> bool:
    return process.bus.request(FindEndpoint(endpoint_id=endpoint.id, **ME)).enabled


def test_a_delivery_is_attempted_for_three_days_and_then_on_request(process, calendar, work, receiver, deliveries):
    endpoint = process.add_endpoint(receiver.url)
    began = calendar.at
    process.tell(a_change())
    work()
    for attempt in range(1, 10):
        assert len(receiver.requests) == attempt
        pause = (deliveries.find_one()["dueAt"] - calendar.at).total_seconds()
        calendar.let_pass(pause - 0.5)
        work()
        assert len(receiver.requests) == attempt
        calendar.let_pass(1.0)
        work()
    assert len(receiver.requests) == 10
    assert deliveries.find_one()["status"] == "failed"
    assert 0.8 * 75 < (calendar.at - began).total_seconds() / HOUR < 1.2 * 76

    calendar.let_pass(DAY)
    work()
    assert len(receiver.requests) == 10
    assert is_enabled(process, endpoint)

    takes(receiver)
    bounds = {"since": int(began.timestamp() * 1000), "until": int((began + timedelta(hours=1)).timestamp() * 1000)}
    assert process.bus.request(ReplayDeliveries(endpoint_id=endpoint.id, **bounds, **ME)).count == 1
    work()
    assert deliveries.find_one()["status"] == "succeeded"
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1


def test_an_endpoint_that_fails_for_five_days_is_disabled_and_gets_everything_when_it_is_enabled(
    process, calendar, work, receiver, deliveries
):
    endpoint = process.add_endpoint(receiver.url)
    for _ in range(5):
        process.tell(a_change())
        work()
        assert is_enabled(process, endpoint)
        calendar.let_pass(DAY)
    process.tell(a_change())
    work()
    assert not is_enabled(process, endpoint)
    process.tell(a_change())
    work()
    before = len(receiver.requests)
    assert {doc["status"] for doc in deliveries.find()} <= {"held", "failed"}

    calendar.let_pass(3 * DAY)
    work()
    assert len(receiver.requests) == before

    takes(receiver)
    change(process, endpoint, enabled=True)
    for _ in range(3):
        work()
    assert deliveries.count_documents({"status": "succeeded"}) == 7 - deliveries.count_documents({"status": "failed"})
    assert deliveries.count_documents({"status": "held"}) == 0
    assert is_enabled(process, endpoint)


def test_a_success_in_between_begins_the_five_days_anew(process, calendar, work, receiver):
    endpoint = process.add_endpoint(receiver.url)
    for day in range(9):
        receiver.answer = lambda *_, day=day: (204 if day == 4 else 500, {}, b"")
        process.tell(a_change())
        work()
        calendar.let_pass(DAY)
    assert is_enabled(process, endpoint)


def test_an_endpoint_that_is_disabled_between_two_attempts_gets_the_second_one_when_it_is_enabled(
    process, calendar, work, receiver, deliveries
):
    endpoint = process.add_endpoint(receiver.url)
    process.tell(a_change())
    work()
    change(process, endpoint, enabled=False)
    calendar.let_pass(DAY)
    work()
    assert len(receiver.requests) == 1
    assert deliveries.find_one()["status"] == "held"

    takes(receiver)
    change(process, endpoint, enabled=True)
    work()
    assert len(receiver.requests) == 2
    assert deliveries.find_one()["status"] == "succeeded"


def test_a_former_secret_signs_attempts_until_its_time_is_over_and_not_one_more(process, calendar, work, receiver):
    endpoint = process.add_endpoint(receiver.url)
    rotated = process.bus.request(RotateSecret(endpoint_id=endpoint.id, overlap_seconds=int(2 * HOUR), **ME))
    process.tell(a_change())
    work()
    for _ in range(4):
        calendar.let_pass(1.3 * HOUR)
        work()
    first, *_, last = receiver.requests
    assert signed_by(first, rotated.secret, endpoint.secret) == {"new": True, "former": True}
    assert signed_by(last, rotated.secret, endpoint.secret) == {"new": True, "former": False}


def signed_by(request: Received, new: str, former: str) -> dict[str, bool]:
    """With which of the secrets a request is signed."""
    at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    signatures = request.headers["webhook-signature"].split()
    body = request.body.decode()
    return {
        name: Webhook(secret).sign(request.headers["webhook-id"], at, body) in signatures
        for name, secret in (("new", new), ("former", former))
    }
