"""Endpoints that answer at once are told before the delivery is stored, and one write stores it with its result."""

import threading

import pytest

from app.contracts.base import Unavailable
from app.webhooks.delivery import AttemptResult
from app.webhooks.delivery_queue import PROMPT_MS, PROMPT_PER_ATTEMPT, DeliveryQueue
from app.webhooks.first_attempts import WAIT_SECONDS, FirstAttempts
from tests.stopped_clock import StoppedClock
from tests.webhooks.conftest import a_change
from tests.webhooks.test_delivery_queue import deliveries as some_deliveries

TAKEN = AttemptResult(status=204)
FIRST, SECOND = some_deliveries("a", 2)


@pytest.fixture
def prompt(still_process, receiver, deliveries, eventually):
    """A process whose endpoint has answered at once so far; the commands that it sends for results from now on are counted."""
    process = still_process
    process.add_endpoint(receiver.url)
    process.tell(a_change())
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 1)
    # However late the first answer came on a busy machine.
    queue = process.module.sender._queue
    for lane in queue._lanes.values():
        lane.prompt, lane.limit = True, 8
    queue._judge = lambda lane, result: None
    repository, process.results_recorded = process.module.sender._deliveries, []
    record = repository.record
    repository.record = lambda patches: process.results_recorded.extend(patches) or record(patches)
    return process


@pytest.fixture
def patient(monkeypatch):
    """Attempts are waited for as long as it takes."""
    monkeypatch.setattr("app.webhooks.first_attempts.WAIT_SECONDS", 60.0)


def test_a_result_is_stored_with_its_delivery(prompt, receiver, deliveries, patient):
    prompt.tell(*(a_change() for _ in range(20)))
    assert deliveries.count_documents({"status": "succeeded"}) == 21
    assert not prompt.results_recorded
    for doc in deliveries.find():
        assert (doc["tries"], len(doc["attempts"]), doc["attempts"][0]["status"]) == (1, 1, 204)
        assert not {"dueAt", "claim"} & doc.keys()
    assert len(receiver.requests) == 21


def test_a_failure_is_stored_with_the_time_of_the_next_attempt(prompt, receiver, deliveries, eventually, patient):
    receiver.answer = lambda *_: (500, {}, b"no")
    prompt.tell(a_change())
    doc = deliveries.find_one({"status": "pending"})
    assert (doc["tries"], doc["attempts"][0]["response"], "claim" in doc) == (1, "no", False)
    assert doc["dueAt"] > doc["createdAt"]
    receiver.answer = lambda *_: (204, {}, b"")
    deliveries.update_one({"_id": doc["_id"]}, {"$set": {"dueAt": doc["createdAt"]}})
    eventually(lambda: deliveries.find_one({"_id": doc["_id"]})["status"] == "succeeded")


def test_a_delivery_whose_body_may_differ_the_next_time_is_stored_first(
    prompt, receiver, deliveries, eventually, patient
):
    stored_at_attempt = []
    receiver.answer = lambda *_: stored_at_attempt.append(deliveries.count_documents({})) or (204, {}, b"")
    prompt.tell(a_change(has_metadata=True))
    eventually(lambda: len(prompt.results_recorded) == 1)
    assert stored_at_attempt == [2]


def test_an_event_that_comes_again_is_not_sent_again(prompt, receiver, deliveries, patient):
    event = a_change()
    prompt.tell(event)
    prompt.tell(event)
    assert deliveries.count_documents({"status": "succeeded"}) == len(receiver.requests) == 2


def test_an_event_that_comes_again_after_its_delivery_was_stored_first_is_not_sent_again(
    prompt, receiver, deliveries, eventually, patient
):
    event = a_change()
    [lane] = prompt.module.sender._queue._lanes.values()
    lane.prompt = False
    prompt.tell(event)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)
    lane.prompt = True
    prompt.tell(event)
    prompt.tell(a_change())
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 3)
    assert len(receiver.requests) == 3


def test_what_cannot_be_stored_is_sent_again_under_the_same_id(prompt, receiver, deliveries, eventually, patient):
    repository = prompt.module.sender._deliveries
    insert = repository.add
    repository.add = lambda *_: (_ for _ in ()).throw(Unavailable("away"))
    event = a_change()
    with pytest.raises(Unavailable):
        prompt.tell(event)
    repository.add = insert
    prompt.tell(event)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)
    _, first, second = receiver.wait_for(3)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event.event_id
    assert first.body == second.body


def test_an_endpoint_that_suddenly_hangs_delays_others_for_a_moment_only(prompt, receiver, deliveries, eventually):
    silence = threading.Event()
    receiver.answer = lambda *_: silence.wait(60) and (200, {}, b"")
    prompt.tell(a_change())
    # The event is done with, while its attempt goes on.
    [doc] = deliveries.find({"status": "pending"})
    assert doc["claim"]
    # No other event waits for this endpoint.
    assert not prompt.module.sender._queue.prompt(some_deliveries(doc["endpointId"], 1))
    silence.set()
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)
    assert len(prompt.results_recorded) == 1
    assert len(receiver.requests) == 2


def test_a_result_that_comes_while_its_delivery_is_stored_is_recorded_then(prompt, receiver, deliveries, eventually):
    silence = threading.Event()
    receiver.answer = lambda *_: silence.wait(60) and (200, {}, b"")
    repository, sender = prompt.module.sender._deliveries, prompt.module.sender
    insert = repository.add

    def late(*args):
        silence.set()
        eventually(lambda: not sender._unstored)
        return insert(*args)

    repository.add = late
    prompt.tell(a_change())
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)
    assert len(receiver.requests) == 2


def test_what_leaves_the_queue_before_it_is_stored_is_queued_again(prompt, receiver, deliveries, eventually, patient):
    sender = prompt.module.sender
    sender._queue.take = lambda: None
    [endpoint_id] = sender._queue._lanes
    told = threading.Thread(target=prompt.tell, args=(a_change(),))
    told.start()
    eventually(lambda: sender._unstored)
    sender._release(sender._queue.forget(endpoint_id))
    told.join(20)
    assert not told.is_alive()
    assert sender._queue.delivery_ids == {doc["_id"] for doc in deliveries.find({"status": "pending"})}
    del sender._queue.take
    sender.wake()
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)


def test_an_endpoint_is_prompt_while_its_last_attempt_was_quick_and_taken():
    queue = DeliveryQueue(100, 8, 5.0, system=StoppedClock())
    waiting = some_deliveries("a", 1000)
    assert queue.prompt(waiting) == []
    for result, room in [
        (TAKEN, 2 * PROMPT_PER_ATTEMPT),
        (AttemptResult(status=204, took_ms=PROMPT_MS + 1), 0),
        (TAKEN, 4 * PROMPT_PER_ATTEMPT),
        (AttemptResult(status=400), 0),
        (TAKEN, 6 * PROMPT_PER_ATTEMPT),
        (AttemptResult(error="no answer in time"), 0),
    ]:
        queue.put(some_deliveries("a", 1, first=2000))
        queue.finish(queue.take(), result)
        assert len(queue.prompt(waiting)) == room
    queue.put(some_deliveries("a", 1, first=2000))
    queue.finish(queue.take(), TAKEN)
    room = len(queue.prompt(waiting))
    queue.put(some_deliveries("a", 5, first=3000))
    assert len(queue.prompt(waiting)) == room - 5


def test_nobody_waits_for_an_attempt_longer_than_so_long():
    waited = []
    clock = StoppedClock()
    clock.wait = lambda event, seconds: waited.append(seconds) or event.is_set()
    first = FirstAttempts([FIRST, SECOND], clock)
    assert first.take(FIRST, TAKEN)
    first.close()
    assert waited == [WAIT_SECONDS]
    assert (first.results, first.unfinished) == ([(FIRST, TAKEN)], {SECOND.delivery_id})
    assert first.take(SECOND, TAKEN)
    assert (first.results, first.unfinished) == ([(FIRST, TAKEN)], {SECOND.delivery_id})
    assert first.mark_stored() == [(SECOND, TAKEN)]
    assert not first.take(SECOND, TAKEN)
