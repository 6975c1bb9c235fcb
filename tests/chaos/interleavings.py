"""Every interleaving of all that can happen to one order, up to bounds, through the real rules of orders and payments.

The rules are the application's own pure functions; storage (compare-and-set: whoever lost decides anew), relays (at least
once, in order, with copies that arrive late), leases (may end at any moment) and the provider (one effect a key; calls
that time out before, after, or long before their effect) are modelled here, and a worker may die between any two steps.
Days may pass between any two steps: then the provider has forgotten every key that it knew, and what was on its way to it
has arrived or never will.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.contracts.base import ApplicationError, Event
from app.contracts.orders import CaptureRequested, OrderCancelled, OrderCreated, RefundRequested
from app.contracts.payments import (
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRetried,
    PaymentStatus,
    PaymentVoided,
)
from app.orders import order as orders
from app.orders.order import CANCELLED, DECLINED, PROCESSING
from app.orders.order import OrderState as Order
from app.payments import payment as payments
from app.payments import payment_commands, provider_calls, provider_responses
from app.payments.payment import Payment, PaymentDecision, Refund, RetryPolicy
from app.payments.provider_port import (
    CallKind,
    DisputeStatus,
    ProviderCall,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.simulated import CAPABILITIES

TOTAL, PART = 100, 40
DAY = 86_400.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(
    max_tries=2,
    horizon=60.0,
    key_life=DAY - 60.0,
    backoff=1.0,
    backoff_max=1.0,
    pending_life=DAY / 2,
    authorization_life=DAY / 2,
)
UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="timed out")
BUSY = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="busy")


# Products of which the charge is pending, authorized, or opened first; product "1" is captured, all others declined.
PENDING, AUTHORIZED, OPENED = "pending", "authorized", "opened"
VERDICTS = {
    "1": ResponseCode.CAPTURED,
    OPENED: ResponseCode.CAPTURED,
    PENDING: ResponseCode.PENDING,
    AUTHORIZED: ResponseCode.AUTHORIZED,
}
OPEN_ANSWERS = {
    CallKind.VOID: (ResponseCode.PENDING, ResponseCode.AUTHORIZED),
    CallKind.CAPTURE: (ResponseCode.AUTHORIZED,),
}


class Bounds(NamedTuple):
    """How much may happen: what clients ask, copies of events, leases lost while their holder lives, faults, deaths, days.

    `facts` are what happens at the provider without being asked for: a refund in its dashboard, a refund that fails after it was
    made, a dispute. `polls` are refreshes that no notification asks for.
    """

    cancels: int = 1
    refunds: int = 1
    copies: int = 1
    expiries: int = 1
    faults: int = 1
    deaths: int = 1
    days: int = 0
    captures: int = 0
    facts: int = 0
    polls: int = 0


class Task(NamedTuple):
    """What a worker holds: the payment as it claimed it, the day its key was first sent, and how far it has come."""

    claimed: Payment
    sent_on: int
    call: ProviderCall | None = None
    response: ProviderResponse | None = None


class Books(NamedTuple):
    """The provider's truth: what became of each key, each refund made, and requests that are still on their way.

    Each with the day on which it happened: the provider forgets its key after that day.
    """

    charges: tuple[tuple[str, ResponseCode, int, int], ...] = ()
    refunds: tuple[tuple[str, int, int], ...] = ()
    afloat: tuple[ProviderCall, ...] = ()
    failed: tuple[tuple[str, int, int], ...] = ()
    dispute: tuple[int, DisputeStatus] | None = None

    def net(self) -> int:
        """What the provider holds of the payer's money."""
        captured = sum(value for _, answer, _, value in self.charges if answer == ResponseCode.CAPTURED)
        taken_back = self.dispute[0] if self.dispute and self.dispute[1] != DisputeStatus.WON else 0
        return captured - sum(value for _, value, _ in self.refunds) - taken_back


class World(NamedTuple):
    """All there is of one order. `due`: the payment wants a worker; `owned`: under a lease.

    `today` counts the days; on `sent_on` the key of the payment's next call may first have been sent.
    """

    order: Order
    to_payments: tuple[Event, ...]
    books: Books
    left: Bounds
    payment: Payment | None = None
    to_orders: tuple[Event, ...] = ()
    due: bool = False
    owned: bool = False
    logged: int = 0
    tasks: tuple[Task | None, ...] = (None, None)
    copy: Event | None = None
    notice: ProviderResponse | None = None
    reading: tuple[Payment, ProviderResponse] | None = None
    today: int = 0
    sent_on: int = 0

    def age(self, payment: Payment, sent_on: int) -> float:
        """How old a payment's key is, in seconds."""
        return (self.today - sent_on) * DAY if payment.key_sent else 0.0

    @property
    def now(self) -> datetime:
        """The time: days pass, and nothing else."""
        return NOW + timedelta(days=self.today)

    @property
    def authorized(self) -> bool:
        """Whether the payment waits for a capture that nobody has asked for."""
        payment = self.payment
        return payment is not None and payment.status == PaymentStatus.AUTHORIZED and polls(payment, self.now)

    def quiet(self) -> bool:
        """Whether nothing is left to do."""
        return not (
            self.to_payments
            or self.to_orders
            or (self.due and not self.authorized)
            or self.copy
            or self.notice
            or self.reading
            or any(self.tasks)
            or self.payment is None
            or self.payment.status == PaymentStatus.UNKNOWN
        )


Steps = Iterator[tuple[str, World]]


class Broken(Exception):
    """An invariant that does not hold."""


# --- rules that the broken variants replace ---------------------------------------------------------------------


def keyed(call: ProviderCall, _attempt: int) -> ProviderCall:
    return call


def keyed_by_attempt(call: ProviderCall, attempt: int) -> ProviderCall:
    return replace(call, key=f"{call.key}:{attempt}", charge_key=f"{call.charge_key}:{attempt}")


def fenced(world: World, claimed: Payment) -> Payment | None:
    """The payment a result may be recorded for: as it is now, by whoever holds the last attempt, and once."""
    stored = world.payment
    return (
        stored
        if stored and stored.fencing_token == claimed.fencing_token and world.logged < claimed.fencing_token
        else None
    )


def unfenced(_world: World, claimed: Payment) -> Payment | None:
    return claimed


def late_capture_kept(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float, now: datetime
) -> PaymentDecision:
    change = answered(payment, call, response, age, now)
    if change.event == PaymentCaptured and payment.cancelled:
        return PaymentDecision(
            payment=replace(change.payment, status=PaymentStatus.CAPTURED, refunds=()), event=change.event
        )
    return change


def answered(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float, now: datetime
) -> PaymentDecision:
    return provider_responses.apply_response(payment, call, response, age, POLICY, now)


def unknown_is_declined(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float, now: datetime
) -> PaymentDecision:
    declined = call.kind != CallKind.REFUND and response.code == ResponseCode.UNKNOWN
    return answered(payment, call, replace(response, code=ResponseCode.DECLINED) if declined else response, age, now)


def may_send(payment: Payment, age: float) -> bool:
    return provider_calls.may_send(payment, age, POLICY)


def always(_payment: Payment, _age: float) -> bool:
    return True


def unsent_after_any_refusal(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float, now: datetime
) -> PaymentDecision:
    refused = response.code == ResponseCode.NOT_ATTEMPTED
    return answered(replace(payment, first_send=True) if refused else payment, call, response, age, now)


@dataclass(frozen=True)
class Rules:
    """The rules in force; `intent` records before the call that there will be one."""

    key: Callable[[ProviderCall, int], ProviderCall] = keyed
    fence: Callable[[World, Payment], Payment | None] = fenced
    meaning: Callable[[Payment, ProviderCall, ProviderResponse, float, datetime], PaymentDecision] = answered
    may_send: Callable[[Payment, float], bool] = may_send
    intent: bool = True
    not_found_proves: bool = False
    stores_reference: bool = True
    trusts_notices: bool = False
    notice_decides: bool = False


# --- what can happen ---------------------------------------------------------------------------------------------


def steps(world: World, rules: Rules) -> Steps:
    """Everything that can happen next."""
    yield from clients(world)
    yield from relays(world)
    yield from operator(world, rules)
    yield from provider(world)
    yield from facts(world)
    yield from failing_refunds(world)
    yield from notices(world, rules)
    yield from days(world)
    for number, task in enumerate(world.tasks):
        if task is None:
            yield from claims(world, number, rules)
        else:
            yield from works(world, number, task, rules)
            if world.left.deaths:
                yield f"worker {number} dies", idle(spend(world, "deaths"), number)


def clients(world: World) -> Steps:
    order, left = world.order, world.left
    if left.cancels:
        change = orders.client_transition(order, CANCELLED)
        if change:
            yield "cancel", ordered(spend(world, "cancels"), change, OrderCancelled if change.cancels_payment else None)
    if left.refunds:
        with suppress(ApplicationError):
            change = orders.refund_reservation(order, "r", PART, "")
            yield "refund", ordered(spend(world, "refunds"), change, RefundRequested)
    if left.captures:
        with suppress(ApplicationError):
            change = orders.capture_request(order, PART, "")
            yield "capture a part", ordered(spend(world, "captures"), change, CaptureRequested)


def relays(world: World) -> Steps:
    for name, entries in (("to_payments", world.to_payments), ("to_orders", world.to_orders)):
        if not entries:
            continue
        event, handed_on = entries[0], world._replace(**{name: entries[1:]})
        for how, after in receive(handed_on, event):
            yield f"{type(event).__name__} {how}", after
            if world.left.copies:
                yield f"{type(event).__name__} {how}, a copy follows", spend(after, "copies")._replace(copy=event)
    if world.copy:
        for how, after in receive(world._replace(copy=None), world.copy):
            yield f"the copy of {type(world.copy).__name__} {how}", after


def operator(world: World, rules: Rules) -> Steps:
    if not (world.payment and world.payment.status == PaymentStatus.UNKNOWN):
        return
    retried = payment_commands.retry(world.payment)
    call = provider_calls.next_call(retried.payment)
    made = call and happened(world.books, call)
    if call and call.kind == CallKind.REFUND and not made and not covers(world.books, call):
        # What the provider has declined, the notification that is on its way explains.
        if not world.notice and call.refund_id.partition("-")[0] != payments.CANCELLATION_REFUND:
            yield from resolutions(world, call)
        return
    if rules.may_send(retried.payment, world.age(world.payment, world.sent_on)):
        yield "an operator retries", recorded(world, world.payment, retried, logged=True)
    elif not world.books.afloat:
        yield from resolutions(world, provider_calls.next_call(retried.payment))


def resolutions(world: World, call: ProviderCall) -> Steps:
    """What an operator does who sees the provider's books, which forget no money."""
    made = happened(world.books, call)
    if made is None and call.kind == CallKind.REFUND and call.refund_id != payments.CANCELLATION_REFUND:
        change = payment_commands.drop_refund(world.payment, call.refund_id, "not made")
        yield "an operator drops the refund", recorded(world, world.payment, change, logged=True)
        return
    if made is None and call.kind == CallKind.REFUND:
        world, made = world._replace(books=refunded(world, call)), ResponseCode.REFUNDED
    response = ProviderResponse(code=made or ResponseCode.DECLINED, reference="ref")
    change = payment_commands.resolve(world.payment, response, POLICY, world.now)
    yield f"an operator resolves it as {response.code}", recorded(world, world.payment, change, logged=True)


def provider(world: World) -> Steps:
    for call in world.books.afloat:
        rest = tuple(other for other in world.books.afloat if other is not call)
        books, _ = effect(world._replace(books=world.books._replace(afloat=rest)), call)
        yield f"a late {call.kind} takes effect", world._replace(books=books)


def facts(world: World) -> Steps:
    """What happens at the provider without being asked for. The provider sends a notification about each."""
    books = world.books
    for key, answer, day, value in books.charges:
        if answer == ResponseCode.PENDING:
            for verdict in (ResponseCode.CAPTURED, ResponseCode.DECLINED):
                decided = with_charge(books, (key, verdict, day, value))
                yield f"the bank says {verdict}", noticed(world, decided)
    if books.dispute and books.dispute[1] == DisputeStatus.OPEN:
        for status in (DisputeStatus.WON, DisputeStatus.LOST):
            yield f"the dispute is {status}", noticed(world, books._replace(dispute=(books.dispute[0], status)))
    if not world.left.facts or books.net() <= 0:
        return
    less = spend(world, "facts")
    if books.net() >= PART and books.dispute is None:
        elsewhere = books._replace(refunds=(*books.refunds, (f"elsewhere {len(books.refunds)}", PART, world.today)))
        yield "a refund is made in the dashboard", noticed(less, elsewhere)
    if books.dispute is None:
        yield "a dispute opens", noticed(less, books._replace(dispute=(books.net(), DisputeStatus.OPEN)))


def failing_refunds(world: World) -> Steps:
    for refund in world.books.refunds if world.left.facts else ():
        key, rest = refund[0], tuple(one for one in world.books.refunds if one is not refund)
        failed = world.books._replace(refunds=rest, failed=(*world.books.failed, refund))
        yield f"{key} fails at the provider", noticed(spend(world, "facts"), failed)


def noticed(world: World, books: Books) -> World:
    """The world after a fact: a notification is on its way, with what was true at that moment."""
    after = world._replace(books=books)
    payload = world.notice or record(after)
    return after._replace(notice=payload)


def record(world: World) -> ProviderResponse:
    """The provider's whole record of the payment."""
    books = world.books
    _, answer, _, value = books.charges[-1] if books.charges else ("", ResponseCode.UNKNOWN, 0, 0)
    refunds = [(key, value, ResponseCode.REFUNDED) for key, value, _ in books.refunds]
    refunds += [(key, value, ResponseCode.DECLINED) for key, value, _ in books.failed]
    dispute = books.dispute
    return ProviderResponse(
        code=answer,
        value=value,
        reference="ref",
        refunds=tuple(
            ProviderRefund(reference=f"re {key}", value=value, code=code, refund_id=key.rpartition("refund:")[2])
            for key, value, code in refunds
        ),
        disputes=(ProviderDispute(reference="dp", value=dispute[0], status=dispute[1]),) if dispute else (),
    )


def notices(world: World, rules: Rules) -> Steps:
    """A notification arrives: a reason to refresh the payment. The broken variants do more."""
    if world.reading:
        before, response = world.reading
        after = world._replace(reading=None)
        yield "the notification's handler records what it read", settled_by_notice(after, before, response)
    if not (world.notice and world.payment):
        return
    arrived = world._replace(notice=None)
    if rules.trusts_notices:
        yield "a notification is believed", settled_by_notice(arrived, world.payment, world.notice)
        return
    if rules.notice_decides:
        if not world.reading:
            yield "the notification's handler asks", arrived._replace(reading=(world.payment, record(world)))
        return
    change = payment_commands.request_refresh(world.payment)
    within = world.owned and change.due_in is not None
    yield "a notification arrives", recorded(arrived, world.payment, change, keeps_lease=within)


def settled_by_notice(world: World, before: Payment, response: ProviderResponse) -> World:
    call = provider_calls.retrieval(before, "ref")
    change = provider_responses.apply_response(before, call, response, 0.0, POLICY, world.now)
    return recorded(world, before, change)


def with_charge(books: Books, entry: tuple[str, ResponseCode, int, int]) -> Books:
    """The books with this entry in the place of the one of the same key."""
    return books._replace(charges=tuple(entry if one[0] == entry[0] else one for one in books.charges))


def days(world: World) -> Steps:
    if world.left.days:
        later = spend(world, "days")
        yield "a day passes", later._replace(today=world.today + 1, books=world.books._replace(afloat=()))


def claims(world: World, number: int, rules: Rules) -> Steps:
    if not (world.payment and world.due) or None in world.tasks[:number]:
        return  # Idle workers are all alike: the first one claims.
    alive = world.owned and any(
        task and task.claimed.fencing_token == world.payment.fencing_token for task in world.tasks
    )
    if alive:
        if not world.left.expiries:
            return
        world = spend(world, "expiries")
    stored = world.payment
    if polls(stored, world.now):
        if not world.left.polls:
            return
        world = spend(world, "polls")
    taken = payments.claim(stored)
    if not rules.intent:
        taken = replace(taken, key_sent=stored.key_sent)
    sent_on = world.sent_on if stored.key_sent else world.today
    claimed = world._replace(payment=taken, owned=True, sent_on=sent_on)
    yield f"worker {number} claims", holding(claimed, number, Task(taken, sent_on))


def polls(payment: Payment, now: datetime) -> bool:
    """Whether the next call is a refresh that nothing but time asks for."""
    call = provider_calls.next_call(payments.expire_if_overdue(payment, now))
    return call is not None and call.kind == CallKind.RETRIEVE and not payment.refresh_requested


def works(world: World, number: int, task: Task, rules: Rules) -> Steps:
    if task.response:
        yield f"worker {number} records {task.response.code}", settled(idle(world, number), task, rules)
        return
    if task.call:
        yield from sends(world, number, task, rules)
        return
    claimed = payments.expire_if_overdue(task.claimed, world.now)
    task = task._replace(claimed=claimed)
    call = None if provider_responses.park_if_exhausted(claimed, POLICY) else provider_calls.next_call(claimed)
    if call is None:
        yield f"worker {number} has nothing to ask", settled(idle(world, number), task, rules)
        return
    call = rules.key(call, task.claimed.fencing_token)
    if call.kind == CallKind.OPEN and not rules.stores_reference:
        # The variant keeps the id in memory and charges at once.
        call = replace(provider_calls.next_call(replace(claimed, reference=f"pi {claimed.fencing_token}")))
    again = task.claimed.fencing_token > 1 or not rules.may_send(task.claimed, world.age(task.claimed, task.sent_on))
    looks_up = again and call.kind not in (CallKind.OPEN, CallKind.RETRIEVE)
    known = found(world, call) if looks_up else None
    if task.claimed.fencing_token > 1 and known is None and call.kind == CallKind.VOID and rules.not_found_proves:
        known = ProviderResponse(code=ResponseCode.VOIDED)
    yield f"worker {number} asks", holding(world, number, task._replace(call=call, response=known))


def sends(world: World, number: int, task: Task, rules: Rules) -> Steps:
    call = task.call
    if not rules.may_send(task.claimed, world.age(task.claimed, task.sent_on)):
        yield f"{call.kind} is not sent", holding(world, number, task._replace(response=UNKNOWN))
        return
    books, response = effect(world, call)
    done = world._replace(books=books)
    yield f"worker {number}: {call.kind} {response.code}", holding(done, number, task._replace(response=response))
    if not world.left.faults:
        return
    silent, afloat = task._replace(response=UNKNOWN), world.books._replace(afloat=(*world.books.afloat, call))
    yield f"{call.kind} times out after", holding(spend(done, "faults"), number, silent)
    yield f"{call.kind} times out before", holding(spend(world, "faults"), number, silent)
    yield f"{call.kind} is on its way", holding(spend(world._replace(books=afloat), "faults"), number, silent)
    yield f"{call.kind} is refused", holding(spend(world, "faults"), number, task._replace(response=BUSY))


# --- how it is stored --------------------------------------------------------------------------------------------


def ordered(world: World, change: orders.OrderTransition, kind: type[Event] | None) -> World:
    order = applied(world.order, change)
    if kind is None:
        return world._replace(order=order)
    requested = kind is RefundRequested and change.refunds
    more = {"refund_id": change.refunds[-1].refund_id, "refund_value": change.amount} if requested else {}
    more |= {"capture_value": change.capture_value} if change.capture_value else {}
    return world._replace(order=order, to_payments=(*world.to_payments, make_event(kind, order.sequence, **more)))


def applied(order: Order, change: orders.OrderTransition, **more: int) -> Order:
    return replace(
        order,
        order_status=change.order_status,
        payment_status=change.payment_status,
        sequence=order.sequence + 1,
        refunds=order.refunds if change.refunds is None else change.refunds,
        authorized=change.authorized or order.authorized,
        capture_value=change.capture_value or order.capture_value,
        captured=change.captured or order.captured,
        disputed=order.disputed if change.disputed is None else change.disputed,
        **more,
    )


def receive(world: World, event: Event) -> Steps:
    """What the receiver of an event stores; more than one possibility where it depends on the moment."""
    if not isinstance(event, OrderCreated | OrderCancelled | RefundRequested | CaptureRequested):
        change = orders.apply_payment_event(world.order, event)
        order = applied(world.order, change, payment_sequence=event.sequence) if change else world.order
        yield "arrives", world._replace(order=order)
    elif isinstance(event, OrderCreated):
        yield from opens(world, event)
    elif event.sequence <= world.payment.order_sequence:
        yield "is known", world
    else:
        change = payment_commands.with_cause(world.payment, requested(world.payment, event), event)
        yield "arrives", recorded(world, world.payment, change)
        if world.owned and change.due_in is not None:
            yield "arrives within the lease", recorded(world, world.payment, change, keeps_lease=True)


def requested(payment: Payment, event: Event) -> PaymentDecision:
    match event:
        case OrderCancelled():
            return payment_commands.cancel(payment)
        case CaptureRequested():
            return payment_commands.request_capture(payment, event.capture_value)
    return payment_commands.request_refund(payment, Refund(refund_id=event.refund_id, value=event.refund_value))


def opens(world: World, event: OrderCreated) -> Steps:
    if world.payment:
        yield "is known", world
        return
    fresh = payments.open_payment(event, replace(CAPABILITIES, opens=event.product_id == OPENED))
    yield "arrives", world._replace(payment=fresh, due=True)
    taken = payments.claim(fresh)
    if world.tasks[0] is None:
        leased = world._replace(payment=taken, due=True, owned=True, sent_on=world.today)
        yield "is taken up", holding(leased, 0, Task(taken, world.today))


def settled(world: World, task: Task, rules: Rules) -> World:
    """Record a result where the fence lets it through; what it means depends on the payment as it is by now."""
    current = rules.fence(world, task.claimed)
    if current is None:
        return world
    if task.call:
        change = rules.meaning(current, task.call, task.response, world.age(current, world.sent_on), world.now)
    else:
        again = 0.0 if provider_calls.next_call(current) else None
        change = provider_responses.park_if_exhausted(current, POLICY) or PaymentDecision(payment=current, due_in=again)
    return recorded(world, current, change, logged=True)


def recorded(
    world: World, before: Payment, change: PaymentDecision, *, logged: bool = False, keeps_lease: bool = False
) -> World:
    change = provider_calls.with_refresh(change)
    after, entries = provider_calls.reset_key_sent(before, change.payment), world.to_orders
    if change.event:
        after = replace(after, sequence=before.sequence + 1)
        entries = (*entries, EVENTS[change.event](change, after))
    world = world._replace(payment=after, to_orders=entries, logged=before.fencing_token if logged else world.logged)
    return world if keeps_lease else world._replace(due=change.due_in is not None, owned=False)


def effect(world: World, call: ProviderCall) -> tuple[Books, ProviderResponse]:
    """What the provider does when a request reaches it: at most one effect a key, as long as it knows the key."""
    books, known = world.books, found(world, call)
    if call.kind == CallKind.OPEN:
        return books, ProviderResponse(code=ResponseCode.OPENED, reference=f"pi {call.key.rpartition(':')[2]}")
    if call.kind == CallKind.RETRIEVE:
        return books, record(world)
    if known:
        return books, known
    if call.kind == CallKind.REFUND:
        if not covers(books, call):
            return books, ProviderResponse(code=ResponseCode.DECLINED, reason="exceeds the charge")
        return refunded(world, call), ProviderResponse(code=ResponseCode.REFUNDED)
    return charged(world, call)


def covers(books: Books, call: ProviderCall) -> bool:
    """Whether the provider makes a refund."""
    return call.value <= books.net() and (books.dispute is None or books.dispute[1] == DisputeStatus.WON)


def charged(world: World, call: ProviderCall) -> tuple[Books, ProviderResponse]:
    """The effect of a charge, a void or a capture on the provider's one entry for it."""
    books, key = world.books, call.reference if call.product_id == OPENED else call.charge_key
    known = (one for one in books.charges if one[0] == key and (call.reference or one[2] == world.today))
    earlier = next(known, None)
    if call.kind == CallKind.CAPTURE:
        if earlier is None or earlier[1] != ResponseCode.AUTHORIZED:
            return books, ProviderResponse(code=earlier[1] if earlier else ResponseCode.VOIDED, reference="ref")
        entry = (key, ResponseCode.CAPTURED, world.today, call.value)
        return with_charge(books, entry), ProviderResponse(
            code=ResponseCode.CAPTURED, value=call.value, reference="ref"
        )
    answer = ResponseCode.VOIDED if call.kind == CallKind.VOID else VERDICTS.get(call.product_id, ResponseCode.DECLINED)
    if earlier and earlier[1] not in (ResponseCode.PENDING, ResponseCode.AUTHORIZED):
        return books, ProviderResponse(code=earlier[1], value=earlier[3], reference="ref")
    entry = (key, answer, world.today, TOTAL)
    after = with_charge(books, entry) if earlier else books._replace(charges=(*books.charges, entry))
    return after, ProviderResponse(code=answer, reference="ref" if not call.reference else call.reference)


def refunded(world: World, call: ProviderCall) -> Books:
    return world.books._replace(refunds=(*world.books.refunds, (call.key, call.value, world.today)))


def found(world: World, call: ProviderCall) -> ProviderResponse | None:
    """What the provider knows of a key: nothing of one that it first received on an earlier day."""
    books, today = world.books, world.today
    answer = happened(
        Books(
            charges=tuple(entry for entry in books.charges if entry[2] == today or call.reference),
            refunds=tuple(entry for entry in books.refunds if entry[-1] == today),
            failed=tuple(entry for entry in books.failed if entry[-1] == today),
        ),
        call,
    )
    value = next((value for _, one, _, value in books.charges if one == answer), 0)
    return ProviderResponse(code=answer, value=value, reference="ref") if answer else None


def happened(books: Books, call: ProviderCall) -> ResponseCode | None:
    """What became of a key. A void or a capture is not answered by what the charge came to so far."""
    if call.kind == CallKind.REFUND:
        if any(key == call.key for key, *_ in books.failed):
            return ResponseCode.DECLINED
        return ResponseCode.REFUNDED if any(key == call.key for key, *_ in books.refunds) else None
    key = call.reference if call.product_id == OPENED else call.charge_key
    answer = next((answer for one, answer, *_ in books.charges if one == key), None)
    return None if answer in OPEN_ANSWERS.get(call.kind, ()) else answer


def holding(world: World, number: int, task: Task | None) -> World:
    return world._replace(tasks=(*world.tasks[:number], task, *world.tasks[number + 1 :]))


def idle(world: World, number: int) -> World:
    return holding(world, number, None)


def spend(world: World, what: str) -> World:
    return world._replace(left=world.left._replace(**{what: getattr(world.left, what) - 1}))


def make_event(kind: type[Event], sequence: int, **more: object) -> Event:
    base = {"event_id": f"{kind.__name__} {sequence}", "order_id": "o", "request_id": "r", "at": 0}
    return kind(**base, sequence=sequence, **more)


EVENTS: dict[type[Event], Callable[[PaymentDecision, Payment], Event]] = {
    PaymentCaptured: lambda _, after: make_event(
        PaymentCaptured, after.sequence, reference="", took_ms=0, captured_value=after.captured
    ),
    PaymentDeclined: lambda _, after: make_event(PaymentDeclined, after.sequence, reason="", took_ms=0),
    PaymentVoided: lambda _, after: make_event(PaymentVoided, after.sequence),
    PaymentParked: lambda _, after: make_event(PaymentParked, after.sequence, reason=""),
    PaymentRetried: lambda _, after: make_event(PaymentRetried, after.sequence, payment_status=after.status.value),
    PaymentDelayed: lambda _, after: make_event(PaymentDelayed, after.sequence, reason="", expires_at=0),
    PaymentAuthorized: lambda _, after: make_event(
        PaymentAuthorized, after.sequence, reference="", authorized_value=after.authorized, expires_at=0
    ),
    PaymentDisputed: lambda change, after: make_event(
        PaymentDisputed, after.sequence, dispute_id="dp", dispute_value=change.dispute.value, reason=""
    ),
    PaymentDisputeClosed: lambda change, after: make_event(
        PaymentDisputeClosed,
        after.sequence,
        dispute_id="dp",
        dispute_value=change.dispute.value,
        won=change.dispute.status == DisputeStatus.WON,
        disputed=after.disputed,
        refunded_total=after.refunded,
        reason="",
    ),
    PaymentRefunded: lambda change, after: make_event(PaymentRefunded, after.sequence, **refund_of(change)),
    PaymentRefundFailed: lambda change, after: make_event(
        PaymentRefundFailed, after.sequence, **refund_of(change), reason=""
    ),
}


def refund_of(change: PaymentDecision) -> dict[str, object]:
    refund = change.refund
    return {
        "refund_id": refund.refund_id,
        "refund_value": refund.value,
        "refunded_total": change.payment.refunded,
    }


# --- what must hold ----------------------------------------------------------------------------------------------


def check(world: World) -> None:
    """Raise Broken where an invariant does not hold in this state."""
    if sum(answer == ResponseCode.CAPTURED for _, answer, *_ in world.books.charges) > 1:
        raise Broken("charged twice")
    if world.books.net() < 0:
        raise Broken("more was given back than was taken")
    if len({key for key, *_ in world.books.refunds}) < len(world.books.refunds):
        raise Broken("a refund was made twice")
    if parked_needlessly(world):
        raise Broken("parked, though the provider's record says that the refund has failed")
    if not world.quiet():
        return
    order, payment = world.order, world.payment
    if world.authorized:
        check_status(order, payment)
        return
    if order.order_status == PROCESSING or order.payment_status in (PaymentStatus.PROCESSING, PaymentStatus.REFUNDING):
        raise Broken(f"stuck as {order.order_status} / {order.payment_status}")
    held = 0 if order.order_status in (DECLINED, CANCELLED) else order.taken - order.reserved
    # What a dispute has taken back is not in the order's hands.
    if world.books.net() != held and order.payment_status != PaymentStatus.DISPUTED:
        raise Broken(f"{order.order_status}, the provider holds {world.books.net()} instead of {held}")
    check_status(order, payment)


def parked_needlessly(world: World) -> bool:
    """Whether an operator is asked for what the provider's record tells; a cancelled order's refund is parked for good."""
    payment = world.payment
    if payment is None or payment.status != PaymentStatus.UNKNOWN or payment.cancelled or not payment.open_refund:
        return False
    call = provider_calls.next_call(payment_commands.retry(payment).payment)
    return call is not None and any(key == call.key for key, *_ in world.books.failed)


def check_status(order: Order, payment: Payment) -> None:
    if order.payment_status != payment.status.value:
        raise Broken(f"the order says {order.payment_status}, the payment {payment.status}")


def check_step(before: World, after: World) -> None:
    """Raise Broken where a step must not happen."""
    if before.order.order_status == CANCELLED and after.order.order_status != CANCELLED:
        raise Broken(f"a cancelled order became {after.order.order_status}")
    if after.payment and before.payment and after.payment.sequence < before.payment.sequence:
        raise Broken("a payment went back in time")


@dataclass
class Explored:
    """What was found: how many states and transitions, and the first way to break an invariant."""

    states: int = 0
    transitions: int = 0
    settled: int = 0
    broken: str = ""
    way: list[str] = field(default_factory=list)


def explore(product: str, rules: Rules, bounds: Bounds) -> Explored:
    """Walk through every state breadth first; stop at the first that breaks an invariant or can never settle."""
    gc.disable()  # Millions of small objects, and no cycle among them.
    try:
        return _explore(product, rules, bounds)
    finally:
        gc.enable()


def _explore(product: str, rules: Rules, bounds: Bounds) -> Explored:
    created = make_event(OrderCreated, 1, user_id="u", product_id=product, total_value=TOTAL, total_currency="MYR")
    first = orders.initial_transition()
    order = Order(
        order_status=first.order_status,
        payment_status=first.payment_status,
        version=1,
        sequence=1,
        payment_sequence=0,
        total_value=TOTAL,
    )
    start = World(order=order, to_payments=(created,), books=Books(), left=bounds)
    numbers: dict[World, int] = {start: 0}
    came: list[tuple[int, str]] = [(0, "created")]
    backwards: list[list[int]] = [[]]
    quiet: list[int] = []
    waiting, explored = deque([start]), Explored()

    def way_to(number: int) -> list[str]:
        way = []
        while number:
            number, label = came[number]
            way.append(label)
        return way[::-1]

    while waiting:
        world = waiting.popleft()
        number, label = numbers[world], ""
        try:
            check(world)
            for label, after in steps(world, rules):
                explored.transitions += 1
                check_step(world, after)
                known = numbers.get(after)
                if known is None:
                    known = numbers[after] = len(numbers)
                    came.append((number, label))
                    backwards.append([])
                    waiting.append(after)
                backwards[known].append(number)
            label = ""
        except (Broken, ValueError, TypeError) as exc:
            explored.broken, explored.way = str(exc), [*way_to(number), *filter(None, [label])]
            break
        if world.quiet():
            quiet.append(number)
    explored.states, explored.settled = len(numbers), len(quiet)
    if not explored.broken:
        lost = unable(backwards, quiet)
        if lost:
            explored.broken, explored.way = "can never settle", way_to(min(lost))
    return explored


def unable(backwards: list[list[int]], quiet: list[int]) -> set[int]:
    """The states from which no settled one can be reached."""
    able, waiting = set(quiet), list(quiet)
    while waiting:
        for before in backwards[waiting.pop()]:
            if before not in able:
                able.add(before)
                waiting.append(before)
    return set(range(len(backwards))) - able
