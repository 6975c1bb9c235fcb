"""Orders in MongoDB: what one write holds, who wins when many write, what is read back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bson import Int64, ObjectId
from msgspec.structs import replace
from pymongo.errors import WriteError

from app.contracts.base import Conflict, Money, NotFound
from app.contracts.orders import IllegalTransition, OrderList, OrderView, StaleVersion, TimelineFull, TooManyRefunds
from app.contracts.payments import PaymentCaptured, PaymentDeclined, PaymentRefunded
from app.messaging.outbox import decode_event
from app.orders import order
from app.orders.documents import NEWEST_FIRST, NOT_LISTED, view_of
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.order import OrderTransition
from app.orders.service import OrderService
from tests.orders.reads import an_update

NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)

NOT_IDS = (
    "",
    "1",
    "6920c1b05be0d3a1f2c4e68",
    "6920c1b05be0d3a1f2c4e6877",
    "z" * 24,
    "abcdefghijkl",
    "１" * 24,
    " " * 24,
)


def step_to(text: str):
    return lambda state: OrderTransition(
        type="OrderUpdated", actor="client", order_status=text, payment_status=state.payment_status
    )


def silent(change, sequence, at):
    return None


def test_one_insert_holds_the_order_its_first_step_and_its_event(orders, create, commands, stored):
    orders.now()  # Once in its life a process asks the database for the time.
    commands.sent.clear()
    order_id = create()
    [(name, command)] = commands.sent
    assert name == "insert"
    [inserted] = command["documents"]
    doc = stored(order_id)
    assert inserted == doc
    assert (doc["orderStatus"], doc["paymentStatus"]) == ("Processing", "Processing")
    assert [(entry["type"], entry["actor"], entry["to"]) for entry in doc["events"]] == [
        ("OrderCreated", "client", "Processing")
    ]
    [entry] = doc["outbox"]
    event = decode_event(entry)
    assert (event.order_id, event.product_id, event.total_value, event.total_currency) == (order_id, "1", 9900, "MYR")
    assert doc["relayDue"] > doc["createdAt"]


def test_a_step_and_its_event_are_one_write(orders, create, update, commands, payment_event, stored):
    order_id = create()
    orders.apply_payment_events([payment_event(PaymentCaptured, order_id)], order.apply_payment_event)
    commands.sent.clear()
    update(order_id, "Cancelled")
    assert [name for name, _ in commands.sent] == ["find", "findAndModify"]
    doc = stored(order_id)
    assert [entry["to"] for entry in doc["events"]] == ["Processing", "Success", "Cancelled"]
    assert [entry["type"] for entry in doc["outbox"]] == ["OrderCreated", "OrderCancelled"]
    assert doc["outbox"][-1]["sequence"] == doc["events"][-1]["sequence"] == 3


def test_every_write_is_journaled_on_a_majority(orders, create, update, commands, payment_event):
    order_id = create()
    orders.apply_payment_events([payment_event(PaymentCaptured, order_id)], order.apply_payment_event)
    update(order_id, "Cancelled")
    writes = [command for name, command in commands.sent if name in ("insert", "update", "findAndModify")]
    assert len(writes) == 3
    for command in writes:
        assert (command["writeConcern"]["w"], command["writeConcern"]["j"]) == ("majority", True)


def test_the_relay_is_told_of_what_was_just_written(orders, outbox, create, update):
    order_id = create()
    [pending] = outbox.dequeue_local(10, 0)
    assert (pending.key, [type(event).__name__ for event in pending.events]) == (ObjectId(order_id), ["OrderCreated"])
    update(order_id, "Cancelled")
    [pending] = outbox.dequeue_local(10, 0)
    assert [type(event).__name__ for event in pending.events] == ["OrderCreated", "OrderCancelled"]


def test_an_order_that_is_asked_for_again_by_its_id_is_stored_once(orders, outbox, create, stored):
    """Its first answer did not reach the asker."""
    order_id = create()
    before = stored(order_id)
    assert create(order_id=order_id) == order_id
    assert stored(order_id) == before
    assert len(outbox.dequeue_local(10, 0)) == 1


def test_another_order_of_the_same_id_is_refused_and_leaves_the_first_alone(orders, create, stored):
    order_id = create(product_name="first")
    before = stored(order_id)
    with pytest.raises(Exception, match="E11000"):
        create(order_id=order_id, product_name="second")
    assert stored(order_id) == before


def test_of_many_stepping_one_order_exactly_one_wins_each_version(orders, rival, create, stored):
    order_id = create()
    won: list[tuple[int, str]] = []

    def walk(walker: int) -> None:
        repository = (orders, rival)[walker % 2]
        for stride in range(8):
            text = f"step {walker}-{stride}"
            while True:
                try:
                    state, changed = repository.transition(an_update(order_id, ""), step_to(text), silent)
                except Conflict:
                    continue
                assert changed
                won.append((state.version, text))
                break

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(walk, range(8)))
    assert sorted(version for version, _ in won) == list(range(2, 66))
    doc = stored(order_id)
    assert [(entry["sequence"], entry["to"]) for entry in doc["events"][1:]] == sorted(won)


def test_of_many_cancelling_one_order_one_does_it_and_one_event_tells(orders, create, update, stored):
    order_id = create()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: update(order_id, "Cancelled"), range(12)))
    assert sum(answer.changed for answer in answers) == 1
    assert {(answer.order_status, answer.version) for answer in answers} == {("Cancelled", 2)}
    assert [entry["type"] for entry in stored(order_id)["outbox"]] == ["OrderCreated", "OrderCancelled"]


def test_a_step_is_decided_anew_when_another_was_faster(orders, create, update, rival, payment_event, stored):
    order_id = create()
    orders.apply_payment_events([payment_event(PaymentCaptured, order_id)], order.apply_payment_event)
    seen = []

    def decide(state):
        seen.append(state.order_status)
        if len(seen) == 1:
            update(order_id, "Cancelled", rival)
        return order.client_transition(state, "Confirm")

    with pytest.raises(IllegalTransition) as refusal:
        orders.transition(an_update(order_id, ""), decide, silent)
    assert seen == ["Success", "Cancelled"]
    assert refusal.value.members["from"] == "Cancelled"
    assert stored(order_id)["orderStatus"] == "Cancelled"


def test_whoever_is_outrun_every_time_gets_a_conflict_and_changes_nothing(orders, create, rival, stored):
    order_id = create()
    outrun = []

    def decide(state):
        outrun.append(state.version)
        rival.transition(an_update(order_id, ""), step_to(f"rival {len(outrun)}"), silent)
        return step_to("never")(state)

    with pytest.raises(Conflict):
        orders.transition(an_update(order_id, ""), decide, silent)
    assert 1 < len(outrun) < 100
    assert "never" not in [entry["to"] for entry in stored(order_id)["events"]]


def test_a_step_that_changes_nothing_writes_nothing(orders, create, update, commands, stored):
    order_id = create()
    before = stored(order_id)
    commands.sent.clear()
    answer = update(order_id, "Processing")
    assert (answer.changed, answer.version) == (False, 1)
    assert [name for name, _ in commands.sent] == ["find"]
    assert stored(order_id) == before


def test_a_timeline_that_is_full_of_texts_takes_refunds_cancellation_and_news(
    orders, create, update, refund, database, payment_event
):
    order_id = create()
    orders.apply_payment_events([payment_event(PaymentCaptured, order_id)], order.apply_payment_event)
    for at in range(3, order.TEXT_LIMIT + 1):
        assert update(order_id, f"step {at}").version == at
    with pytest.raises(TimelineFull):
        update(order_id, "one more")
    assert not update(order_id, f"step {order.TEXT_LIMIT}").changed
    for at in range(order.REFUND_LIMIT):
        assert refund(order_id, f"r{at}", 1).refund_value == 1
    with pytest.raises(TooManyRefunds):
        refund(order_id, "one more", 1)
    assert update(order_id, "Cancelled").changed
    assert (
        len(orders.apply_payment_events([payment_event(PaymentRefunded, order_id, 2)], order.apply_payment_event)) == 1
    )
    doc = database.orders.find_one({"_id": ObjectId(order_id)})
    steps = order.TEXT_LIMIT + order.REFUND_LIMIT + 2
    assert (len(doc["events"]), doc["sequence"], doc["orderStatus"], doc["paymentStatus"]) == (
        steps, steps, "Cancelled", "Refunded",
    )  # fmt: skip


def test_news_of_many_new_orders_is_one_write_and_no_read(orders, create, commands, payment_event, stored):
    ids = [create() for _ in range(20)]
    commands.sent.clear()
    kinds = [PaymentCaptured if at % 2 else PaymentDeclined for at in range(20)]
    batch = [payment_event(kind, order_id) for kind, order_id in zip(kinds, ids, strict=True)]
    told = orders.apply_payment_events(batch, order.apply_payment_event)
    assert [event for event, _ in told] == batch
    assert [name for name, _ in commands.sent] == ["update"]
    assert [stored(order_id)["orderStatus"] for order_id in ids] == ["Declined", "Success"] * 10


def test_news_of_orders_that_another_process_stored_is_one_read_and_one_write(
    orders, rival, create, commands, payment_event, stored
):
    ids = [create() for _ in range(20)]
    batch = [payment_event(PaymentCaptured, order_id) for order_id in ids]
    commands.sent.clear()
    rival.apply_payment_events(batch, order.apply_payment_event)
    assert [name for name, _ in commands.sent] == ["find", "update"]
    # What the first process remembers of them is out of date now: that is found out, and nothing is heard twice.
    orders.apply_payment_events(batch, order.apply_payment_event)
    assert {(stored(order_id)["orderStatus"], stored(order_id)["version"]) for order_id in ids} == {("Success", 2)}


def test_news_strikes_out_the_events_that_it_acknowledges_and_no_later_one(
    orders, create, update, payment_event, stored
):
    heard, cancelled = create(), create()
    update(cancelled, "Cancelled")
    orders.apply_payment_events(
        [payment_event(PaymentCaptured, one, order_sequence=1) for one in (heard, cancelled)], order.apply_payment_event
    )
    assert (stored(heard)["outbox"], "relayDue" in stored(heard)) == ([], False)
    assert [entry["type"] for entry in stored(cancelled)["outbox"]] == ["OrderCreated", "OrderCancelled"]
    orders.apply_payment_events(
        [payment_event(PaymentRefunded, cancelled, 2, order_sequence=2)], order.apply_payment_event
    )
    assert (stored(cancelled)["outbox"], "relayDue" in stored(cancelled)) == ([], False)


def test_news_that_acknowledges_nothing_leaves_the_outbox_alone(orders, create, payment_event, stored):
    order_id = create()
    orders.apply_payment_events([payment_event(PaymentCaptured, order_id)], order.apply_payment_event)
    assert [entry["type"] for entry in stored(order_id)["outbox"]] == ["OrderCreated"]


@pytest.fixture
def buried(outbox, stored):
    """Make a dead letter of an order's oldest undelivered event, as a relay does."""

    def bury(order_id):
        outbox.dead_letter(ObjectId(order_id), stored(order_id)["outbox"][0]["event_id"], "poison", 8)
        assert "deadLetter" in stored(order_id)

    return bury


@pytest.mark.parametrize("process", ["orders", "rival"], ids=["that stored the order", "that has to read it"])
def test_news_clears_a_dead_letter_that_payments_has_recorded_after_all(
    request, process, create, payment_event, stored, buried
):
    """Its receiver failed after it had written: an operator would have nothing to do."""
    order_id = create()
    buried(order_id)
    hearing = request.getfixturevalue(process)
    hearing.apply_payment_events(
        [payment_event(PaymentCaptured, order_id, order_sequence=1)], order.apply_payment_event
    )
    doc = stored(order_id)
    assert (doc["orderStatus"], doc["outbox"], "deadLetter" in doc) == ("Success", [], False)


@pytest.mark.parametrize("process", ["orders", "rival"], ids=["that stored the order", "that has to read it"])
def test_news_leaves_a_dead_letter_that_payments_has_not_recorded_to_the_operator(
    request, process, create, update, payment_event, stored, buried
):
    recorded, waits = create(), create()
    update(waits, "Cancelled")
    for order_id in (recorded, waits):
        buried(order_id)
    batch = [payment_event(PaymentCaptured, recorded), payment_event(PaymentCaptured, waits, order_sequence=1)]
    hearing = request.getfixturevalue(process)
    hearing.apply_payment_events(batch, order.apply_payment_event)
    for order_id in (recorded, waits):
        doc = stored(order_id)
        assert (doc["paymentSequence"], "deadLetter" in doc) == (1, True)


def test_the_same_news_twice_in_one_batch_is_heard_once(orders, create, payment_event, stored):
    twice, once = create(), create()
    event = payment_event(PaymentCaptured, twice)
    told = orders.apply_payment_events([event, payment_event(PaymentCaptured, once), event], order.apply_payment_event)
    assert sorted(heard.order_id for heard, _ in told) == sorted([twice, once])
    assert [stored(order_id)["version"] for order_id in (twice, once)] == [2, 2]


def test_news_heard_again_later_changes_nothing(orders, create, payment_event, stored):
    order_id = create()
    event = payment_event(PaymentCaptured, order_id)
    orders.apply_payment_events([event], order.apply_payment_event)
    before = stored(order_id)
    assert orders.apply_payment_events([event], order.apply_payment_event) == []
    assert orders.apply_payment_events([event, event], order.apply_payment_event) == []
    assert stored(order_id) == before


def test_several_news_of_one_order_in_one_batch_are_heard_in_their_order(orders, create, update, payment_event, stored):
    order_id, other = create(), create()
    update(order_id, "Cancelled")
    batch = [
        payment_event(PaymentCaptured, order_id, 1),
        payment_event(PaymentCaptured, other, 1),
        payment_event(PaymentRefunded, order_id, 2, refund_value=900, refunded_total=900),
        payment_event(PaymentRefunded, order_id, 3, refund_value=9000, refunded_total=9900),
    ]
    assert len(orders.apply_payment_events(batch, order.apply_payment_event)) == 4
    doc = stored(order_id)
    assert [entry["paymentStatus"] for entry in doc["events"]] == [
        "Processing", "Processing", "Refunding", "Refunding", "Refunded",
    ]  # fmt: skip
    assert doc["paymentSequence"] == 3
    assert stored(other)["orderStatus"] == "Success"


def test_news_is_judged_anew_when_a_client_cancels_between_read_and_write(
    orders, create, update, rival, payment_event, stored
):
    cancelled, calm = create(), create()
    judged = []

    def decide(state, event):
        judged.append((event.order_id, state.order_status))
        if judged == [(cancelled, "Processing")]:
            update(cancelled, "Cancelled", rival)
        return order.apply_payment_event(state, event)

    told = orders.apply_payment_events(
        [payment_event(PaymentCaptured, cancelled), payment_event(PaymentCaptured, calm)], decide
    )
    assert {event.order_id: change.order_status for event, change in told} == {cancelled: "Cancelled", calm: "Success"}
    assert (cancelled, "Cancelled") in judged
    doc = stored(cancelled)
    assert [entry["type"] for entry in doc["events"]] == ["OrderCreated", "OrderCancelled", "PaymentCaptured"]
    assert (doc["orderStatus"], doc["paymentStatus"]) == ("Cancelled", "Refunding")
    assert len(stored(calm)["events"]) == 2


def test_news_that_is_outrun_every_time_is_a_conflict_and_can_be_heard_later(
    orders, create, rival, payment_event, stored
):
    order_id = create()
    event = payment_event(PaymentCaptured, order_id)
    outrun = []

    def decide(state, event):
        outrun.append(state.version)
        rival.transition(an_update(order_id, ""), step_to(f"rival {len(outrun)}"), silent)
        return order.apply_payment_event(state, event)

    with pytest.raises(Conflict):
        orders.apply_payment_events([event], decide)
    assert 1 < len(outrun) < 100
    assert stored(order_id)["paymentSequence"] == 0
    assert len(orders.apply_payment_events([event], order.apply_payment_event)) == 1


def test_clients_and_payments_at_once_leave_every_order_whole(orders, rival, create, update, payment_event, stored):
    ids = [create() for _ in range(40)]
    start = threading.Barrier(6)

    def cancel(part: int) -> None:
        start.wait()
        for order_id in ids[part::4]:
            assert update(order_id, "Cancelled", rival).changed

    def hear(events) -> None:
        start.wait()
        while True:
            try:
                orders.apply_payment_events(events, order.apply_payment_event)
            except Conflict:
                continue
            return

    batch = [payment_event(PaymentCaptured, order_id) for order_id in ids]
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(cancel, part) for part in range(4)]
        # The same events by two relays, as after a crash.
        running += [pool.submit(hear, batch), pool.submit(hear, batch)]
        for one in running:
            one.result()
    for order_id in ids:
        doc = stored(order_id)
        assert (doc["orderStatus"], doc["paymentStatus"], doc["version"]) == ("Cancelled", "Refunding", 3)
        assert [entry["type"] for entry in doc["outbox"]] == ["OrderCreated", "OrderCancelled"]


def test_news_of_a_missing_order_is_refused_and_the_others_can_be_heard(orders, create, payment_event, stored):
    order_id = create()
    good, lost = payment_event(PaymentCaptured, order_id), payment_event(PaymentCaptured, str(ObjectId()))
    with pytest.raises(NotFound, match=lost.order_id):
        orders.apply_payment_events([good, lost], order.apply_payment_event)
    assert len(orders.apply_payment_events([good], order.apply_payment_event)) == 1
    assert stored(order_id)["orderStatus"] == "Success"


def test_a_malformed_or_unknown_id_names_no_order(reads, orders, create):
    create()
    for order_id in (*NOT_IDS, "6920c1b05be0d3a1f2c4e687"):
        with pytest.raises(NotFound):
            reads.view(order_id, "")
        with pytest.raises(NotFound):
            reads.status(order_id, "")
        with pytest.raises(NotFound):
            orders.transition(an_update(order_id, ""), step_to("anything"), silent)


def test_an_order_has_one_name_so_its_id_in_capitals_is_unknown(reads, orders, update, create, stored):
    """Payments knows it by its id in small letters: a cancellation under another name would never find the money."""
    order_id = create(order_id="6920c1b05be0d3a1f2c4e687")
    before = stored(order_id)
    for ask in (reads.view, reads.status, lambda shouted, _: update(shouted, "Cancelled")):
        with pytest.raises(NotFound):
            ask(order_id.upper(), "")
    assert stored(order_id) == before


def test_an_order_is_told_as_it_was_stored(reads, orders, create, update, stored):
    order_id = create(product_name="Kaffee ☕", total_text="RM 99", total_value=2**40)
    update(order_id, "Cancelled")
    view, doc = reads.view(order_id, ""), stored(order_id)
    assert view == OrderView(
        id=order_id,
        user_id="user-7",
        product_id="1",
        product_name="Kaffee ☕",
        total_order_amount="RM 99",
        total=Money(2**40, "MYR"),
        order_status="Cancelled",
        payment_status="Processing",
        version=2,
        created_at=view.created_at,
        updated_at=view.updated_at,
        captured=Money(0, "MYR"),
        refunded=Money(0, "MYR"),
        pending=Money(0, "MYR"),
        refundable=Money(0, "MYR"),
        refunds=(),
    )
    for text, at in ((view.created_at, doc["createdAt"]), (view.updated_at, doc["updatedAt"])):
        assert text == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    status = reads.status(order_id, "")
    assert (status.order_status, status.payment_status, status.version) == ("Cancelled", "Processing", 2)


def test_internal_members_are_not_even_read(reads, orders, create, commands):
    order_id = create()
    commands.sent.clear()
    reads.view(order_id, "")
    reads.status(order_id, "")
    reads.list_by_user("user-7", 10)
    asked = [command["projection"] for _, command in commands.sent]
    assert len(asked) == 3
    for projection in asked:
        for name in ("events", "outbox"):
            assert not projection.get(name, not any(projection.values()))
    assert not {"events", "outbox", "requestId"} & {*OrderView.__struct_fields__}


def test_pages_that_share_a_command_are_the_same_as_alone(reads, orders, create, commands):
    for at in range(30):
        create(user_id=f"reader-{at % 5}", product_name=f"no {at}")
    oldest = reads.list_by_user("reader-1", 100).orders[3]
    asked = [(f"reader-{at % 5}", 1 + at % 7) for at in range(15)]
    alone = [reads.list_by_user(*one) for one in asked]
    started = reads.list_by_user("reader-1", 2, "", oldest.created_at, oldest.id)
    wanted = [({"userId": user_id}, size + 1, NEWEST_FIRST) for user_id, size in asked]
    commands.sent.clear()
    together = reads.queries._read_pages([*wanted, ({"userId": "nobody"}, 5, NEWEST_FIRST)])
    assert [name for name, _ in commands.sent] == ["aggregate"]
    assert not any({*NOT_LISTED} & doc.keys() for page in together for doc in page)
    assert [[view_of(doc) for doc in page[:size]] for page, (_, size) in zip(together, asked, strict=False)] == [
        list(one.orders) for one in alone
    ]
    assert together[-1] == []
    assert len(started.orders) == 2


def test_many_who_ask_for_pages_at_once_each_get_their_own(reads, orders, create):
    for at in range(40):
        create(user_id=f"crowd-{at % 8}")
    with ThreadPoolExecutor(32) as pool:
        lists = list(pool.map(lambda at: reads.list_by_user(f"crowd-{at % 8}", 3), range(200)))
    for at, one in enumerate(lists):
        assert ([view.user_id for view in one.orders], one.more) == ([f"crowd-{at % 8}"] * 3, True)


def test_a_list_has_the_users_orders_newest_first(reads, orders, create, database):
    ids = [create(user_id="lister", product_name=f"no {at}") for at in range(12)]
    create(user_id="another")
    create(user_id="Lister")
    # Some of them share their millisecond, as in a burst: then the later id comes first.
    for at, order_id in enumerate(ids):
        when = orders.now().replace(microsecond=1000 * (at // 3), second=1)
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": when}})
    listed = reads.list_by_user("lister", 100).orders
    assert [view.id for view in listed] == ids[::-1]
    assert {view.user_id for view in listed} == {"lister"}


def test_a_list_ends_at_its_limit_with_the_newest(reads, orders, create):
    ids = [create(user_id="lister") for _ in range(5)]
    everything = [view.id for view in reads.list_by_user("lister", 100).orders]
    assert sorted(everything) == sorted(ids)
    assert [view.id for view in reads.list_by_user("lister", 3).orders] == everything[:3]
    assert reads.list_by_user("nobody", 3) == OrderList(orders=(), more=False)


def test_a_listed_order_is_the_one_that_is_found(reads, orders, create):
    order_id = create(user_id="lister")
    assert list(reads.list_by_user("lister", 1).orders) == [replace(reads.view(order_id, ""), refunds=None)]


def test_many_at_once_read_what_they_have_just_written(reads, orders, rival, request_for, update):
    def live_through(walker: int) -> None:
        for _ in range(6):
            order_id = OrderService(orders, NO_LIMIT).create_order(request_for(user_id=f"w{walker}")).order_id
            assert reads.view(order_id, "").version == 1
            assert reads.status(order_id, "").order_status == "Processing"
            update(order_id, "Cancelled", rival)
            assert reads.status(order_id, "").order_status == "Cancelled"
            assert reads.view(order_id, "").order_status == "Cancelled"
            assert order_id in {view.id for view in reads.list_by_user(f"w{walker}", 100).orders}

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(live_through, range(16)))


GONE = object()
REQUIRED = ("userId", "productId", "total", "orderStatus", "paymentStatus", "version", "events", "outbox", "createdAt")
TEXT = ("userId", "productId", "productName", "totalOrderAmount", "orderStatus", "requestId")
MALFORMED = [
    ("_id", "6920c1b05be0d3a1f2c4e687"),
    *[(name, GONE) for name in REQUIRED],
    *[(name, 7) for name in TEXT],
    ("orderStatus", ""),
    ("paymentStatus", "captured"),
    ("paymentStatus", None),
    ("total", {"value": 0, "currency": "MYR"}),
    ("total", {"value": -1, "currency": "MYR"}),
    ("total", {"value": 99.5, "currency": "MYR"}),
    ("total", {"value": "9900", "currency": "MYR"}),
    ("total", {"value": 9900}),
    ("total", {"value": 9900, "currency": 458}),
    ("total", "RM 99"),
    ("version", 1.5),
    ("version", -1),
    ("version", "1"),
    ("sequence", Int64(2**40)),
    ("paymentSequence", None),
    ("createdAt", "2026-01-01T00:00:00Z"),
    ("updatedAt", 0),
    ("events", {}),
    ("events", ["OrderCreated"]),
    ("events", [{"sequence": 1, "type": "OrderCreated"}]),
    ("outbox", {}),
    ("outbox", [{"type": "OrderCreated"}]),
    ("relayDue", "soon"),
    ("relayDue", GONE),
    ("isAdmin", True),
]


def test_the_database_itself_refuses_a_malformed_order(orders, create, database, stored):
    good = stored(create())
    database.orders.insert_one({**good, "_id": ObjectId()})
    for name, value in MALFORMED:
        doc = {**good, "_id": ObjectId(), name: value}
        doc = {member: given for member, given in doc.items() if given is not GONE}
        with pytest.raises(WriteError) as refusal:
            database.orders.insert_one(doc)
        assert refusal.value.code == 121, (name, value)


def made_of(collection):
    return collection.options()["validator"], collection.index_information()


def test_preparing_again_and_side_by_side_changes_nothing(reads, orders, rival, create, database):
    order_id = create()
    before = made_of(database.orders)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda repository: repository.prepare(), [orders, rival] * 2))
    assert made_of(database.orders) == before
    assert reads.view(order_id, "").id == order_id


def test_collections_that_are_prepared_for_the_first_time_side_by_side_come_out_right(orders, rival, database):
    expected = made_of(database.orders)
    for _ in range(3):
        database.orders.drop()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda repository: repository.prepare(), [orders, rival] * 2))
        assert made_of(database.orders) == expected


def test_on_behalf_of_a_user_only_that_users_orders_are_there(reads, orders, create, update, commands, stored):
    order_id = create(user_id="ada")
    before = stored(order_id)
    for ask in (
        reads.view,
        reads.status,
        reads.diagnose,
        lambda key, user: reads.timeline(key, user, 0),
        lambda key, user: update(key, "Cancelled", user=user),
    ):
        for user in ("bob", "Ada", "ada ", "$ne"):
            with pytest.raises(NotFound) as foreign:
                ask(order_id, user)
            with pytest.raises(NotFound) as absent:
                ask("692000000000000000000000", user)
            assert (foreign.value.detail, foreign.value.members) == (absent.value.detail, absent.value.members)
        ask(order_id, "ada")
    assert stored(order_id) != before
    changes = [command["query"] for name, command in commands.sent if name == "findAndModify"]
    assert [change["userId"] for change in changes] == ["ada"]


def test_a_step_on_old_knowledge_is_judged_with_the_write_itself(orders, rival, create, update, payment_event, stored):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    taken = []

    def decide(state):
        order.check_version(order_id, state, (2,))
        if not taken:
            # Another is faster, between the look and the write.
            taken.append(update(order_id, "Confirm", rival))
        return order.client_transition(state, "Packed")

    with pytest.raises(StaleVersion) as refused:
        orders.transition(an_update(order_id, ""), decide, silent)
    assert refused.value.members == {"order_id": order_id, "version": 3}
    assert stored(order_id)["orderStatus"] == "Confirm"
    assert update(order_id, "Packed", expected=(1, 3)).version == 4


def test_an_order_stands_with_its_last_step_and_what_holds_it_up(reads, orders, create, update, database):
    order_id = create()
    update(order_id, "Cancelled")
    diagnostics = reads.diagnose(order_id, "")
    assert (diagnostics.order_status, diagnostics.last.sequence, diagnostics.last.to_status) == (
        "Cancelled",
        2,
        "Cancelled",
    )
    assert (diagnostics.undelivered, diagnostics.dead_letter) == (True, "")
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": orders.now()}
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"outbox": [], "deadLetter": letter}})
    diagnostics = reads.diagnose(order_id, "user-7")
    assert (diagnostics.undelivered, diagnostics.dead_letter) == (False, "poison")


def test_a_page_begins_behind_the_order_it_is_told(reads, orders, create, database):
    ids = [create(user_id="lister") for _ in range(9)]
    for at, order_id in enumerate(ids):
        when = orders.now().replace(microsecond=1000 * (at // 4), second=1)
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": when}})
    for limit in (1, 2, 3, 8, 9):
        found, before = [], ("", "")
        while True:
            page = reads.list_by_user("lister", limit, "Processing", *before)
            found += [view.id for view in page.orders]
            assert len(page.orders) <= limit
            if not page.more:
                break
            before = (page.orders[-1].created_at, page.orders[-1].id)
        assert found == ids[::-1]


def test_the_times_of_an_order_never_run_backwards_where_another_process_is_behind(
    store, create, update, tell, monkeypatch
):
    order_id = create()
    created = store.collection.find_one()["createdAt"]
    behind = timedelta(seconds=1)
    exact = store.clock.now
    monkeypatch.setattr(store.clock, "now", lambda: exact() - behind)
    tell(order_id, PaymentCaptured)
    update(order_id, "Confirm")
    stored = store.collection.find_one()
    times = [created, *(entry["at"] for entry in stored["events"]), stored["updatedAt"]]
    assert times == sorted(times)
    assert len(stored["events"]) == 3
