"""Every query has its index: what is really sent to the database is explained, on collections with some content.

No query may scan a collection or sort in memory. The calls below are every public one of the repositories, so that a
new query comes under the same rule; a running application is listened to as well.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import uuid4

import pytest
from bson import ObjectId
from pymongo.monitoring import CommandListener

from app.contracts.base import milliseconds
from app.contracts.orders import CreateOrder, EraseOrders, OrderCreated, RefundNotFound
from app.contracts.payments import PaymentCaptured
from app.main import create_app, runtime
from app.messaging.outbox import Outbox, encode_event
from app.orders import order
from app.orders.documents import CHANGES, NEWEST_FIRST, OLDEST_FIRST, metadata_pairs
from app.orders.erasure_repository import ErasureRepository, PendingErasure
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.order import OrderTransition
from app.orders.queries import OrderQueries
from app.orders.repository import OrderRepository
from app.orders.service import OrderService
from app.payments import payment as domain
from app.payments.provider_port import CallKind, ProviderCall, ResponseCode
from app.payments.providers.demonstrations import PaymentPlan
from app.payments.providers.ledger import Ledger
from app.payments.providers.simulated import CAPABILITIES
from app.payments.repository import PaymentRepository, PaymentUpdate
from app.storage.mongodb import Database
from app.webhooks.delivery import AttemptResult, Delivery, EndedAttempt, delivery_id
from app.webhooks.delivery_repository import DeliveryRepository
from app.webhooks.documents import delivery_document, endpoint_document
from app.webhooks.endpoint import Endpoint
from app.webhooks.endpoint_repository import EndpointRepository
from tests.orders.reads import Reads, an_update

pytestmark = pytest.mark.extended

NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)

DOCUMENTS = 400
PAIRS = metadata_pairs({"cart": "A-1207", "table": "7"})
FAILED_REFUNDS = [
    {"id": f"r{at}", "value": 1, "requested": "1 MYR", "status": status}
    for at, status in enumerate(("failed", "failed", "succeeded"))
]
# What looks nothing up.
OTHERS = frozenset({
    "collMod", "create", "createIndexes", "endSessions", "getMore", "hello", "insert", "isMaster", "killCursors",
    "listCollections", "listIndexes", "ping", "saslContinue", "saslStart",
})  # fmt: skip
LOOK_UPS = {
    "find": ("filter", "sort", "limit", "skip", "projection", "hint"),
    "findAndModify": ("query", "sort", "update", "remove", "new", "fields", "hint", "arrayFilters"),
    "aggregate": ("pipeline", "cursor", "hint"),
    "count": ("query", "limit", "skip", "hint"),
    "distinct": ("key", "query"),
}
BULK = {"update": "updates", "delete": "deletes"}
# What begins with this is a change stream: the server reads its log for it, and no collection.
STREAM = "$changeStream"
FORBIDDEN = {"COLLSCAN", "SORT", "$sort"}


class Commands(CommandListener):
    """Every command sent to the database."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict]] = []

    def started(self, event) -> None:
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event) -> None:
        """Not of interest."""

    def failed(self, event) -> None:
        """Not of interest."""


@pytest.fixture
def commands() -> Commands:
    """What was sent."""
    return Commands()


def look_ups(sent: list[tuple[str, dict]]) -> Iterator[dict]:
    """The commands that look something up, each as it can be explained."""
    for name, command in sent:
        if name in BULK:
            for one in command[BULK[name]]:
                yield {name: command[name], BULK[name]: [one]}
        elif name in LOOK_UPS and STREAM not in command.get("pipeline", [{}])[0]:
            yield {name: command[name], **{part: command[part] for part in LOOK_UPS[name] if part in command}}
        else:
            assert name in OTHERS or "pipeline" in command, f"{name} is new here: say how to explain it"


def stages(plan) -> Iterator[str]:
    """The names of all stages of what explain tells, other than those of plans that were rejected."""
    if isinstance(plan, dict):
        for name, value in plan.items():
            if name == "stage":
                yield value
            elif name == "$sort":
                yield name
            elif name not in ("rejectedPlans", "command", "parsedQuery"):
                yield from stages(value)
    elif isinstance(plan, list):
        for one in plan:
            yield from stages(one)


def shape(command: dict) -> str:
    """A look-up without its values."""

    def bare(value):
        if isinstance(value, dict):
            return {name: bare(member) for name, member in value.items()}
        return [bare(value[0])] if isinstance(value, list) and value else "…"

    kept = {name: value for name, value in command.items() if name not in ("projection", "fields", "update")}
    return str({name: value if isinstance(value, str) else bare(value) for name, value in kept.items()})


@pytest.fixture
def offences(database) -> Callable[[list], dict[str, set[str]]]:
    """Which of the commands sent scan a collection or sort in memory, once for each shape."""

    def look(sent) -> dict[str, set[str]]:
        found = {}
        for command in {shape(command): command for command in look_ups(sent)}.values():
            explained = database.command("explain", command, verbosity="queryPlanner")
            if bad := FORBIDDEN & set(stages(explained)):
                found[shape(command)] = bad
        return found

    return look


@dataclass
class Parts:
    """The repositories of the modules, on collections with content."""

    orders: OrderRepository
    payments: PaymentRepository
    orders_outbox: Outbox
    payments_outbox: Outbox
    ledger: Ledger
    reads: Reads
    endpoints: EndpointRepository
    deliveries: DeliveryRepository
    erasures: ErasureRepository

    @property
    def outboxes(self) -> tuple[Outbox, ...]:
        """All outboxes."""
        return self.orders_outbox, self.orders.changes, self.payments_outbox


def created(order_id: str) -> OrderCreated:
    return OrderCreated(
        event_id=uuid4().hex, order_id=order_id, sequence=1, request_id="r", at=1,
        user_id="user-7", product_id="1", total_value=9900, total_currency="MYR",
    )  # fmt: skip


def captured(order_id: str) -> PaymentCaptured:
    return PaymentCaptured(
        event_id=uuid4().hex, order_id=order_id, sequence=1, request_id="r", at=1, reference="ref", took_ms=1
    )


def call(kind: CallKind, order_id: str, value: int = 9900) -> ProviderCall:
    key = f"{order_id}:1"
    return ProviderCall(
        kind=kind, key=f"{key}:refund:cancel" if kind == CallKind.REFUND else key, charge_key=key, order_id=order_id,
        product_id="1", value=value, currency="MYR", refund_id="cancel",
    )  # fmt: skip


def new_order(**changes) -> CreateOrder:
    given = dict.fromkeys(CreateOrder.__struct_fields__, "")
    given |= {"order_id": str(ObjectId()), "request_id": "r", "user_id": "user-7", "product_id": "1"}
    given |= {
        "product_name": "Espresso machine",
        "total_text": "RM 99",
        "total_value": 9900,
        "total_currency": "MYR",
        "manual_capture": False,
    }
    return CreateOrder(**given | changes)


def fill(collection, seeds: list[dict], change: Callable[[int], dict]) -> None:
    """Make some hundred documents of a few good ones."""
    collection.insert_many([
        {**seeds[at % len(seeds)], **change(at)} for at in range(DOCUMENTS)
    ])  # fmt: skip


@pytest.fixture
def parts(settings, commands, database) -> Iterator[Parts]:
    """Repositories on collections with content, of which some is due and some is a dead letter."""
    connection = Database(settings.mongodb_uri, settings.database, event_listeners=[commands])
    names = ("orders", "erasures", "payments", "ledger", "webhook_endpoints", "webhook_deliveries")
    stores = {name: connection.collection(name, 10.0) for name in names}
    outboxes = {name: Outbox(stores[name], 10.0) for name in ("orders", "payments")}
    made = Parts(
        OrderRepository(stores["orders"], outboxes["orders"], 10.0),
        PaymentRepository(stores["payments"], outboxes["payments"], 60.0),
        outboxes["orders"],
        outboxes["payments"],
        Ledger(stores["ledger"]),
        Reads(stores["orders"], outboxes["orders"]),
        EndpointRepository(stores["webhook_endpoints"]),
        DeliveryRepository(stores["webhook_deliveries"], 30.0),
        ErasureRepository(stores["orders"], stores["erasures"]),
    )
    for one in (made.orders, made.payments, made.ledger, made.endpoints, made.deliveries, made.erasures):
        one.prepare()
    order_id = OrderService(made.orders, NO_LIMIT).create_order(new_order()).order_id
    made.payments.insert([domain.open_payment(created(order_id), CAPABILITIES)], 0)
    made.ledger.record(call(CallKind.CHARGE, order_id), ResponseCode.CAPTURED)
    now = made.orders.now()

    def relayed(at: int) -> dict:
        letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": now - timedelta(seconds=at)}
        due = {"relayDue": now + timedelta(seconds=at - DOCUMENTS)}
        return {"deadLetter": letter} if at % 20 == 0 else due if at % 20 == 1 else {"outbox": []}

    def untold(at: int) -> dict:
        letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": now - timedelta(seconds=at)}
        due = {CHANGES.due: now + timedelta(seconds=at - DOCUMENTS)}
        waits = {2: {CHANGES.dead: letter}, 3: due}.get(at % 20)
        return {CHANGES.events: [encode_event(created(order_id))], **waits} if waits else {}

    order_doc, payment_doc, entry = (database[name].find_one() for name in ("orders", "payments", "ledger"))
    del order_doc["relayDue"], payment_doc["dueAt"]
    payment_doc["outbox"] = [encode_event(captured(order_id))]
    fill(
        database.orders,
        [order_doc],
        lambda at: (
            {"_id": ObjectId(), "userId": f"user-{at % 10}", "createdAt": now - timedelta(seconds=at)}
            | {"orderStatus": "Success" if at % 20 < 10 else "Processing"}
            | {"paymentStatus": "Disputed" if at % 4 == 3 else "Captured" if at % 20 < 10 else "Processing"}
            | ({"refunds": FAILED_REFUNDS} if at % 4 == 3 else {})
            | ({"metadata": PAIRS} if at % 30 == 7 else {})
            | relayed(at)
            | untold(at)
        ),
    )
    fill(
        database.payments,
        [payment_doc],
        lambda at: (
            {"_id": str(ObjectId())}
            | relayed(at)
            | ({"dueAt": now + timedelta(seconds=at - 100)} if at % 10 == 1 else {})
        ),
    )
    erasure = {"requestedBy": "", "requestId": "r", "requestedAt": now, "rounds": 0}
    fill(
        database.erasures,
        [erasure],
        lambda at: (
            {"_id": f"e{at}", "pseudonym": f"p{at}", "requestedAt": now - timedelta(seconds=at)}
            | ({"userId": f"erased-{at}", "dueAt": now - timedelta(seconds=at)} if at % 10 == 1 else {})
        ),
    )
    planned = {"answer": "pending", "plan": PaymentPlan.CAPTURE_LATER, "manual": False}
    fill(
        database.ledger,
        [entry],
        lambda at: (
            {"_id": f"{ObjectId()}:1"}
            | ({**planned, "changesAt": now - timedelta(seconds=at), "token": f"t{at}"} if at % 20 == 1 else {})
            | ({"notices": [{"id": f"evt_{at}", "type": "payment.captured", "at": now}]} if at % 20 == 2 else {})
        ),
    )
    fill(
        database.webhook_endpoints,
        [{**endpoint_document(an_endpoint(made)), "changedAt": now}],
        lambda at: (
            {"_id": f"we_{at}", "userId": f"user-{at % 40}", "createdAt": now - timedelta(seconds=at)}
            | {"changedAt": now - timedelta(hours=at)}
            | ({"deletedAt": now - timedelta(hours=at)} if at % 10 == 0 else {})
        ),
    )
    statuses = ["succeeded"] * 7 + ["pending", "held", "failed"]
    fill(
        database.webhook_deliveries,
        [delivery_document(a_delivery("e", "we_1"))],
        lambda at: (
            {"_id": f"e{at}.we_{at % 40}", "endpointId": f"we_{at % 40}", "status": statuses[at % 10]}
            | {"createdAt": now - timedelta(seconds=at)}
            | ({"dueAt": now + timedelta(seconds=at - 200), "tries": at % 3} if at % 10 == 7 else {})
        ),
    )
    commands.sent.clear()
    yield made
    connection.close()


def an_endpoint(parts: Parts, name: str = "we_new") -> Endpoint:
    return Endpoint(
        endpoint_id=name,
        user_id="user-7",
        url="https://shop.example/",
        description="",
        events=("*",),
        secrets=(),
        created_at=parts.endpoints.now(),
    )


def a_delivery(event_id: str, endpoint_id: str = "we_7") -> Delivery:
    return Delivery(
        delivery_id=delivery_id(event_id, endpoint_id),
        endpoint_id=endpoint_id,
        event_id=event_id,
        event_type="order.created",
        order_id=str(ObjectId()),
        body="{}",
    )


def claimed_in(parts: Parts) -> list[Delivery]:
    for _ in range(2):  # The second time begins after the endpoint whose turn was last.
        claimed, _ = parts.deliveries.claim_due(3, ["we_1", "we_2"], lambda found: found)
        assert claimed
    return claimed


def attempted_in(parts: Parts) -> None:
    outcomes = ((AttemptResult(status=204), None), (AttemptResult(status=500), 5.0))
    parts.deliveries.record(
        [
            parts.deliveries.result_patch(EndedAttempt(delivery=delivery, result=result, pause=pause))
            for delivery, (result, pause) in zip(claimed_in(parts), outcomes, strict=False)
        ]
    )


def changed_in(parts: Parts) -> None:
    parts.endpoints.change("we_7", "user-7", lambda one: replace(one, description="mine"))


def endpoints_in(parts: Parts, on_behalf_of: str = "", told_of: str = "") -> None:
    page = parts.endpoints.oldest(on_behalf_of, 5, told_of=told_of)
    assert len(page) == 5
    last = page[2]
    assert parts.endpoints.oldest(on_behalf_of, 5, told_of=told_of, after=(last.created_at, last.endpoint_id))


def listed_in(parts: Parts) -> None:
    now = parts.deliveries.now()
    page = parts.deliveries.newest("we_7", 2)
    parts.deliveries.newest("we_7", 2, before=(page[-1]["createdAt"], page[-1]["_id"]))
    parts.deliveries.newest("we_7", 2, status="failed", order_id="6920", since=now - timedelta(hours=1), until=now)


def silent(change, sequence, at):
    return None


def new_in(parts: Parts) -> str:
    return OrderService(parts.orders, NO_LIMIT).create_order(new_order()).order_id


def refund_in(parts: Parts) -> None:
    with pytest.raises(RefundNotFound):
        parts.reads.refund(new_in(parts), "", "r1")


def leased_in(parts: Parts):
    [leased] = parts.payments.insert([domain.open_payment(created(str(ObjectId())), CAPABILITIES)], 1)
    return leased


def saved_in(parts: Parts) -> None:
    leased = leased_in(parts)
    parts.payments.save([PaymentUpdate(before=leased, payment=leased.payment, log_entry={"attempt": 1})])
    # Out of date by now: what was written has to be looked up.
    parts.payments.save([PaymentUpdate(before=leased, payment=leased.payment)])


def repeated_in(parts: Parts) -> None:
    for _ in range(2):
        OrderService(parts.orders, NO_LIMIT).create_order(new_order(idempotency_key="k"))


def heard_in(parts: Parts) -> None:
    ids = [new_in(parts), new_in(parts)]
    parts.orders.apply_payment_events([captured(order_id) for order_id in ids], order.apply_payment_event)


def erasing_in(parts: Parts, user_id: str = "user-2") -> PendingErasure:
    """An erasure that was recorded and claimed, of orders placed by now."""
    record = parts.erasures.add(EraseOrders(request_id="r", user_id=user_id, requested_by=""))
    return PendingErasure(
        erasure_id=record.id,
        user_id=user_id,
        pseudonym=record.pseudonym,
        requested_by="",
        request_id="r",
        requested_at=parts.orders.now(),
        rounds=0,
    )


def pages_in(parts: Parts, *status: str, **more) -> None:
    """Two pages of a user's orders, whole and of one status; the second begins between two of one moment."""
    page = parts.reads.list_by_user("user-7", 5, *status, **more).orders
    following = parts.reads.list_by_user("user-7", 5, *(status or [""]), page[-1].created_at, page[-1].id, **more)
    assert following.orders


def all_pages_in(parts: Parts, *status: str, **more) -> None:
    """Two pages of everybody's orders."""
    page = parts.reads.list_all(10, *status, **more)
    assert page.orders
    place = {"before_id": page.orders[-1].id, "before_at": page.orders[-1].created_at}
    parts.reads.list_all(10, *status, **place, **more)


def a_time(parts: Parts) -> dict[str, int]:
    """Most of the orders that there are, but neither the oldest nor the newest."""
    now = milliseconds(parts.orders.now())
    return {"created_from": now - 350_000, "created_to": now - 10_000}


def step_in(parts: Parts) -> None:
    def decide(state):
        return OrderTransition(
            type="OrderUpdated", actor="client", order_status="x", payment_status=state.payment_status
        )

    parts.orders.transition(an_update(new_in(parts), ""), decide, silent)


def relayed_in(outbox: Outbox) -> None:
    batch = outbox.claim(3)
    assert batch
    for pending in batch:
        pending.delivered = [event.event_id for event in pending.events]
    outbox.acknowledge(batch)


def acknowledged_later_in(outbox: Outbox) -> None:
    batch = outbox.claim(3)
    for pending in batch:
        pending.delivered = [event.event_id for event in pending.events]
    outbox.acknowledge_later(batch)
    outbox.acknowledge_all()


def replayed_in(outbox: Outbox) -> None:
    assert outbox.replay(outbox.dead_letters(1)[0]["_id"])


def order_replayed_in(parts: Parts) -> None:
    order_id = str(parts.orders_outbox.dead_letters(1)[0]["_id"])
    assert parts.orders.replay(order_id, lambda state: order.dead_letter_replay(state, "Ada", "it is mended"))


def payment_replayed_in(parts: Parts) -> None:
    current = parts.payments.find(parts.payments_outbox.dead_letters(1)[0]["_id"])
    assert current
    assert parts.payments.replay(current, captured(current.payment.order_id))


def buried_in(outbox: Outbox) -> None:
    pending = outbox.claim(1)[0]
    outbox.dead_letter(pending.key, pending.events[0].event_id, "poison", 8)


def failed_in(outbox: Outbox) -> None:
    pending = outbox.claim(1)[0]
    assert outbox.count_failure(pending.key, pending.events[0].event_id) == 1


def noticed_in(parts: Parts) -> None:
    [(entry, notices)] = parts.ledger.claim_notices(1, parts.ledger.now() + timedelta(minutes=1))
    parts.ledger.remove_notices(entry["_id"], [notice["id"] for notice in notices])


def charged_in(parts: Parts) -> str:
    order_id = str(ObjectId())
    parts.ledger.record(call(CallKind.CHARGE, order_id), ResponseCode.CAPTURED)
    return order_id


OUTBOX = {
    "claim": lambda outbox: outbox.claim(3),
    "acknowledge": relayed_in,
    "acknowledge_all": acknowledged_later_in,
    "postpone": lambda outbox: outbox.postpone(outbox.claim(1)[0].key, 1.0),
    "count_failure": failed_in,
    "dead_letter": buried_in,
    "dead_letters": lambda outbox: outbox.dead_letters(10),
    "replay": replayed_in,
    "count_attempt": lambda outbox: outbox.count_attempt(outbox.claim(1)[0].key),
    "release_local": lambda outbox: outbox.release_local(),
    "schedule_unscheduled": lambda outbox: outbox.schedule_unscheduled(),
    "backlog": lambda outbox: outbox.backlog(1000),
    "queue": lambda outbox: outbox.queue(1000),
    "unfinished": lambda outbox: outbox.unfinished(1000),
    "find_stuck": lambda outbox: [outbox.find_stuck(dead, 0.0, 10) for dead in (True, False)],
}
CALLS: dict[tuple[type, str], Callable[[Parts], object]] = {
    (OrderRepository, "add"): repeated_in,
    (OrderRepository, "clear_expired_keys"): lambda parts: parts.orders.clear_expired_keys(3600.0),
    (OrderRepository, "count_open"): lambda parts: parts.orders.count_open("user-7", 100),
    (OrderRepository, "transition"): step_in,
    (OrderRepository, "replay"): order_replayed_in,
    (OrderRepository, "apply_payment_events"): heard_in,
    (OrderQueries, "find_order"): lambda parts: parts.reads.view(new_in(parts), ""),
    (OrderQueries, "list_refunds"): lambda parts: parts.reads.refunds(new_in(parts), ""),
    (OrderQueries, "find_refund"): refund_in,
    (OrderQueries, "check_status"): lambda parts: parts.reads.status(new_in(parts), ""),
    (OrderQueries, "list_by_user"): lambda parts: pages_in(parts),
    (OrderQueries, "list_all"): lambda parts: [
        all_pages_in(parts),
        all_pages_in(parts, "Success"),
        all_pages_in(parts, payment_status="Captured"),
        all_pages_in(parts, "Processing", payment_status="Disputed", refund_failed=True),
    ],
    (OrderQueries, "find_many"): lambda parts: parts.reads.find_many([new_in(parts)]),
    (OrderQueries, "await_timeline"): lambda parts: parts.reads.timeline(new_in(parts), "", 0),
    (OrderQueries, "diagnose"): lambda parts: parts.reads.diagnose(new_in(parts), "user-7"),
    (PaymentRepository, "insert"): leased_in,
    (PaymentRepository, "pseudonymize"): lambda parts: parts.payments.pseudonymize([str(ObjectId())], "user-7", "p"),
    (ErasureRepository, "has_open_orders"): lambda parts: parts.erasures.has_open_orders("nobody", parts.orders.now()),
    (ErasureRepository, "add"): lambda parts: [erasing_in(parts, "user-1"), erasing_in(parts, "user-1")],
    (ErasureRepository, "claim"): lambda parts: parts.erasures.claim(),
    (ErasureRepository, "postpone"): lambda parts: parts.erasures.postpone(erasing_in(parts), 1.0),
    (ErasureRepository, "extend"): lambda parts: parts.erasures.extend(erasing_in(parts)),
    (ErasureRepository, "complete"): lambda parts: parts.erasures.complete(erasing_in(parts), 1),
    (ErasureRepository, "newest"): lambda parts: parts.erasures.newest(5),
    (ErasureRepository, "pseudonymize"): lambda parts: parts.erasures.pseudonymize(erasing_in(parts, "user-9")),
    (ErasureRepository, "order_ids"): lambda parts: parts.erasures.order_ids(erasing_in(parts)),
    (PaymentRepository, "claim"): lambda parts: parts.payments.claim(10),
    (PaymentRepository, "reload_if_unanswered"): lambda parts: parts.payments.reload_if_unanswered(leased_in(parts)),
    (PaymentRepository, "backlog"): lambda parts: parts.payments.backlog(1000),
    (PaymentRepository, "count_queue"): lambda parts: parts.payments.count_queue(1000),
    (PaymentRepository, "count_unfinished"): lambda parts: parts.payments.count_unfinished(1000),
    (PaymentRepository, "find_stuck"): lambda parts: parts.payments.find_stuck(60.0, 10_000),
    (PaymentRepository, "attempts"): lambda parts: parts.payments.attempts(str(ObjectId()), "user-7"),
    (PaymentRepository, "list_parked"): lambda parts: parts.payments.list_parked(10),
    (PaymentRepository, "replay"): payment_replayed_in,
    (PaymentRepository, "diagnostics"): lambda parts: parts.payments.diagnostics(str(ObjectId()), "user-7"),
    (PaymentRepository, "find_many"): lambda parts: parts.payments.find_many([str(ObjectId())]),
    (PaymentRepository, "find_order_id"): lambda parts: parts.payments.find_order_id("pi_1"),
    (PaymentRepository, "captured_since"): lambda parts: list(
        parts.payments.captured_since(parts.payments.now() - timedelta(hours=1), "simulated")
    ),
    (PaymentRepository, "find"): lambda parts: parts.payments.find(str(ObjectId())),
    (PaymentRepository, "save"): saved_in,
    (PaymentRepository, "release"): lambda parts: parts.payments.release([leased_in(parts)]),
    (Ledger, "record"): charged_in,
    (Ledger, "find"): lambda parts: parts.ledger.find(f"{charged_in(parts)}:1"),
    (Ledger, "refund"): lambda parts: parts.ledger.refund(call(CallKind.REFUND, charged_in(parts))),
    (Ledger, "has_refund"): lambda parts: parts.ledger.has_refund(call(CallKind.REFUND, charged_in(parts))),
    (Ledger, "find_entry"): lambda parts: parts.ledger.find_entry(f"{charged_in(parts)}:1"),
    (Ledger, "find_payment"): lambda parts: parts.ledger.find_payment(call(CallKind.CAPTURE, charged_in(parts))),
    (Ledger, "find_by_token"): lambda parts: parts.ledger.find_by_token("t1"),
    (Ledger, "find_changing"): lambda parts: parts.ledger.find_changing(10),
    (Ledger, "settled"): lambda parts: parts.ledger.settled(parts.ledger.find_changing(1)[0]),
    (Ledger, "update"): lambda parts: parts.ledger.settled(parts.ledger.find_changing(1)[0]),
    (Ledger, "claim_notices"): noticed_in,
    (Ledger, "remove_notices"): noticed_in,
    (Ledger, "entries_since"): lambda parts: list(parts.ledger.entries_since(parts.ledger.now() - timedelta(days=1))),
    **{
        (Outbox, name): lambda parts, use=use: [use(outbox) for outbox in parts.outboxes]
        for name, use in OUTBOX.items()
    },
    # Last of those of orders: nothing waits to be told afterwards.
    (OrderRepository, "drop_changes"): lambda parts: parts.orders.drop_changes(),
    (EndpointRepository, "add"): lambda parts: [parts.endpoints.add(an_endpoint(parts)) for _ in range(2)],
    (EndpointRepository, "find"): lambda parts: parts.endpoints.find("we_7", "user-7"),
    (EndpointRepository, "oldest"): endpoints_in,
    (EndpointRepository, "enabled_of"): lambda parts: parts.endpoints.enabled_of(["we_7", "we_8"]),
    (EndpointRepository, "count"): lambda parts: parts.endpoints.count("user-7", 16),
    (EndpointRepository, "change"): changed_in,
    (EndpointRepository, "erase"): lambda parts: parts.endpoints.erase("user-3", "p"),
    (EndpointRepository, "ids_of"): lambda parts: parts.endpoints.ids_of("user-7"),
    (EndpointRepository, "delete"): lambda parts: parts.endpoints.delete("we_7", "user-7"),
    (EndpointRepository, "changed_since"): lambda parts: parts.endpoints.changed_since(parts.endpoints.now()),
    (DeliveryRepository, "add"): lambda parts: parts.deliveries.add(
        [a_delivery("n")],
        [a_delivery("m")],
        [],
        [EndedAttempt(delivery=a_delivery("o"), result=AttemptResult(status=204))],
    ),
    (DeliveryRepository, "claim_due"): claimed_in,
    (DeliveryRepository, "release"): lambda parts: parts.deliveries.release(claimed_in(parts)),
    (DeliveryRepository, "record"): attempted_in,
    (DeliveryRepository, "delete_all"): lambda parts: parts.deliveries.delete_all(["we_39"]),
    (DeliveryRepository, "rewrite"): lambda parts: parts.deliveries.rewrite([str(ObjectId())], str),
    (DeliveryRepository, "hold"): lambda parts: parts.deliveries.hold("we_7"),
    (DeliveryRepository, "endpoints_of_held"): lambda parts: parts.deliveries.endpoints_of_held(),
    (DeliveryRepository, "send_held"): lambda parts: parts.deliveries.send_held("we_8"),
    (DeliveryRepository, "replay"): lambda parts: parts.deliveries.replay(
        "we_9", parts.deliveries.now() - timedelta(hours=1), parts.deliveries.now()
    ),
    (DeliveryRepository, "retry"): lambda parts: parts.deliveries.retry("e9.we_9"),
    (DeliveryRepository, "delete_undelivered"): lambda parts: parts.deliveries.delete_undelivered("we_9"),
    (DeliveryRepository, "find"): lambda parts: parts.deliveries.find("e8.we_8"),
    (DeliveryRepository, "newest"): listed_in,
    (DeliveryRepository, "backlog"): lambda parts: parts.deliveries.backlog(["we_1"], 1000),
    (DeliveryRepository, "queue"): lambda parts: parts.deliveries.queue(1000),
}
DISPUTED = {"payment_status": "Disputed"}
FAILED = {"refund_failed": True}
CART = {"metadata": {"cart": "A-1207"}}
OLDEST = {"oldest_first": True}
USES = {
    **CALLS,
    (OrderQueries, "list_by_user of one status"): lambda parts: pages_in(parts, "Success"),
    (OrderQueries, "list_by_user of one payment status"): lambda parts: pages_in(parts, **DISPUTED),
    (OrderQueries, "list_by_user of failed refunds"): lambda parts: pages_in(parts, **FAILED),
    (OrderQueries, "list_by_user of metadata"): lambda parts: pages_in(parts, **CART),
    (OrderQueries, "list_by_user of several pairs"): lambda parts: pages_in(
        parts, metadata={**CART["metadata"], "table": "7"}
    ),
    (OrderQueries, "list_by_user of metadata and status"): lambda parts: pages_in(parts, "Success", **CART),
    (OrderQueries, "list_all of metadata"): lambda parts: all_pages_in(parts, **CART),
    (OrderQueries, "list_all of metadata and status"): lambda parts: all_pages_in(parts, "Success", **CART),
    (OrderQueries, "list_by_user of a time"): lambda parts: pages_in(parts, **a_time(parts)),
    (OrderQueries, "list_by_user, oldest first"): lambda parts: pages_in(parts, **OLDEST),
    (OrderQueries, "list_by_user of one status and a time, oldest first"): lambda parts: pages_in(
        parts, "Success", **a_time(parts), **OLDEST
    ),
    (OrderQueries, "list_all of a time"): lambda parts: all_pages_in(parts, **a_time(parts)),
    (OrderQueries, "list_all of a time, oldest first"): lambda parts: all_pages_in(parts, **a_time(parts), **OLDEST),
    (OrderQueries, "list_all, oldest first"): lambda parts: all_pages_in(parts, **OLDEST),
    (OrderQueries, "list_all of one status and a time"): lambda parts: all_pages_in(parts, "Success", **a_time(parts)),
    (OrderQueries, "list_all of one payment status and a time, oldest first"): lambda parts: all_pages_in(
        parts, **a_time(parts), **DISPUTED, **OLDEST
    ),
    (OrderQueries, "list_all of one payment status"): lambda parts: all_pages_in(parts, **DISPUTED),
    (OrderQueries, "list_all of failed refunds"): lambda parts: all_pages_in(parts, **FAILED),
    (EndpointRepository, "oldest of a user"): lambda parts: endpoints_in(parts, "user-7"),
    (EndpointRepository, "oldest that are told of a user"): lambda parts: endpoints_in(parts, told_of="user-7"),
}
# These send what others of their class send, or ask the outbox, which is a class of its own here.
DELEGATING = {
    "list_dead_letters",
    "await_order",
    "explain",
    "describe_states",
    "list_stuck",
    "check_backlog",
    "check_queue",
}
NO_QUERY = DELEGATING | {
    "prepare",
    "now",
    "secret",
    "enqueue_local",
    "is_delivered",
    "result_patch",
    "dequeue_local",
    "wake",
    "lease_end",
    "acknowledge_later",
    "mark_acknowledged",
}
KINDS = (
    OrderRepository,
    OrderQueries,
    ErasureRepository,
    PaymentRepository,
    Outbox,
    Ledger,
    EndpointRepository,
    DeliveryRepository,
)


def test_every_call_of_a_repository_is_explained_here():
    public = {
        (kind, name)
        for kind in KINDS
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in NO_QUERY
    }
    assert public == set(CALLS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_query_scans_a_collection_or_sorts_in_memory(parts, commands, offences, kind):
    for (owner, _), use in USES.items():
        if owner is kind:
            use(parts)
    explained = {shape(command) for command in look_ups(commands.sent)}
    assert len(explained) >= 3
    assert offences(commands.sent) == {}


@pytest.mark.parametrize(
    ("kind", "name", "index"),
    [
        (OrderQueries, "list_by_user", "newest_of_user"),
        (OrderQueries, "list_by_user of one status", "newest_of_user_by_status"),
        (OrderQueries, "list_by_user of one payment status", "newest_of_user_by_payment_status"),
        (OrderQueries, "list_by_user of failed refunds", "newest_of_user_by_failed_refund"),
        (OrderQueries, "list_by_user of metadata", "newest_of_user_by_metadata"),
        (OrderQueries, "list_by_user of several pairs", "newest_of_user_by_metadata"),
        (OrderQueries, "list_all of metadata", "by_metadata"),
        (OrderQueries, "list_by_user of a time", "newest_of_user"),
        (OrderQueries, "list_by_user, oldest first", "newest_of_user"),
        (OrderQueries, "list_by_user of one status and a time, oldest first", "newest_of_user_by_status"),
        (OrderQueries, "list_all of a time", "newest"),
        (OrderQueries, "list_all of a time, oldest first", "newest"),
        (OrderQueries, "list_all, oldest first", "_id_"),
        (OrderQueries, "list_all of one payment status", "by_payment_status"),
        (OrderQueries, "list_all of failed refunds", "by_failed_refund"),
        (PaymentRepository, "claim", "due"),
        (DeliveryRepository, "backlog", "due"),
        (EndpointRepository, "oldest", "by_age"),
        (EndpointRepository, "oldest of a user", "oldest_of_user"),
        (EndpointRepository, "oldest that are told of a user", "oldest_of_user"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_query_by_something_else_than_the_id_uses_its_index_and_reads_no_more_than_it_returns(
    parts, commands, database, kind, name, index
):
    USES[kind, name](parts)
    queries = [command for command in look_ups(commands.sent) if "sort" in command]
    assert {command["find"] for command in queries} <= {"orders", "payments", "webhook_deliveries", "webhook_endpoints"}
    assert queries
    for command in queries:
        explained = database.command("explain", command, verbosity="executionStats")
        assert f"'indexName': '{index}'" in str(explained["queryPlanner"]["winningPlan"])
        stats = explained["executionStats"]
        assert stats["totalKeysExamined"] <= stats["nReturned"] + 1


@pytest.mark.parametrize(("name", "index"), [("claim", "relay_due"), ("dead_letters", "dead_letters")])
def test_the_queries_of_an_outbox_use_its_indexes_and_read_no_more_than_they_return(
    parts, commands, database, name, index
):
    for outbox in parts.outboxes:
        commands.sent.clear()
        OUTBOX[name](outbox)
        [query] = [command for command in look_ups(commands.sent) if "sort" in command]
        explained = database.command("explain", query, verbosity="executionStats")
        own = f"changes_{index}" if outbox is parts.orders.changes else index
        assert f"'indexName': '{own}'" in str(explained["queryPlanner"]["winningPlan"])
        stats = explained["executionStats"]
        assert stats["totalKeysExamined"] <= stats["nReturned"] + 1


def test_pages_that_share_a_command_use_the_same_indexes(parts, commands, offences, database):
    selected = ({"userId": "user-1"}, {"userId": "user-2", "orderStatus": "Success"}, {"userId": "user-3"})
    pages = [(one, 5, sorting) for one in selected for sorting in (NEWEST_FIRST, OLDEST_FIRST)]
    parts.reads.queries._read_pages(pages)
    [(name, command)] = commands.sent
    assert (name, offences(commands.sent)) == ("aggregate", {})
    explained = database.command(
        "explain", {"aggregate": "orders", "pipeline": command["pipeline"], "cursor": {}}, verbosity="executionStats"
    )
    assert str(explained).count("'stage': 'IXSCAN'") >= len(pages)
    assert "COLLSCAN" not in str(explained)


def test_a_running_application_sends_no_other_queries(
    settings, commands, offences, database, monkeypatch, eventually, place
):
    monkeypatch.setattr(Outbox, "enqueue_local", lambda self, key, events: None)
    app = create_app(
        replace(settings, simulated_timeout_after_percent=50, relay_lease=0.1, breaker_failures=1000),
        event_listeners=[commands],
    )
    runtime(app).prepare()
    runtime(app).start()
    try:
        client = app.test_client()
        ids = [place(client, productId="1" if at % 2 else "2", userId=f"user-{at % 3}") for at in range(20)]
        for order_id in ids[:10]:
            client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
        ways = (f"one/{ids[0]}", f"status/{ids[0]}?wait=1", "user-1?limit=2&status=Success")
        for path in (*ways, f"one/{ids[0]}/events", f"one/{ids[0]}/explain"):
            assert client.get(f"/orders/{path}").status_code == 200
        eventually(lambda: database.orders.count_documents({"orderStatus": "Processing"}) == 0)
        eventually(lambda: database.orders.count_documents({"orderStatus": "Cancelled", "paymentStatus": "Refunded"}))
        eventually(lambda: database.payments.count_documents({"dueAt": {"$exists": True}}) == 0)
    finally:
        runtime(app).stop()
    # Every one of them was sent while the collections had some content, and is explained while they have more.
    [order_doc, payment_doc, entry] = [database[name].find_one() for name in ("orders", "payments", "ledger")]
    fill(database.orders, [order_doc], lambda at: {"_id": ObjectId()})
    fill(database.payments, [payment_doc], lambda at: {"_id": str(ObjectId())})
    fill(database.ledger, [entry], lambda at: {"_id": str(ObjectId())})
    used = {name for name, _ in commands.sent}
    assert {"find", "findAndModify", "update"} <= used
    assert offences(commands.sent) == {}


def test_the_explanation_sees_a_scan_and_a_sort(parts, commands, offences, settings):
    connection = Database(settings.mongodb_uri, settings.database, event_listeners=[commands])
    orders = connection.collection("orders", 10.0).collection
    list(orders.find({"productName": "Espresso machine"}))
    list(orders.find({"userId": "user-7"}).sort("productName", 1))
    orders.update_many({"productId": "none"}, {"$set": {"productId": "1"}})
    list(orders.aggregate([{"$match": {"userId": "user-7"}}, {"$sort": {"productName": 1}}]))
    connection.close()
    assert sorted(map(sorted, offences(commands.sent).values())) == [["COLLSCAN"], ["COLLSCAN"], ["SORT"], ["SORT"]]
