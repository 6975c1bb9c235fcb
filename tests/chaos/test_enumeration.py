"""Every interleaving of all that can happen to one order, up to bounds, through the real rules of orders and payments.

The rules are the application's own pure functions; storage (compare-and-set: whoever lost decides anew), relays (at least
once, in order, with copies that arrive late), leases (may end at any moment) and the provider (one effect a key; calls
that time out before, after, or long before their effect) are modelled here, and a worker may die between any two steps.
Days may pass between any two steps: then the provider has forgotten every key that it knew, and what was on its way to it
has arrived or never will.
"""

import gc
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from app.contracts.base import ApplicationError, Event
from app.contracts.orders import OrderCancelled, OrderCreated, RefundRequested
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentStatus,
    PaymentVoided,
)
from app.orders import order as orders
from app.orders.order import CANCELLED, DECLINED, PROCESSING
from app.orders.order import OrderState as Order
from app.payments import payment as payments
from app.payments.payment import Payment, PaymentDecision, Refund, RetryPolicy
from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES

TOTAL, PART = 100, 40
DAY = 86_400.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(max_tries=2, horizon=60.0, key_life=DAY - 60.0, backoff=1.0, backoff_max=1.0)
UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="timed out")
BUSY = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="busy")


class Bounds(NamedTuple):
    """How much may happen: what clients ask, copies of events, leases lost while their holder lives, faults, deaths, days."""

    cancels: int = 1
    refunds: int = 1
    copies: int = 1
    expiries: int = 1
    faults: int = 1
    deaths: int = 1
    days: int = 0


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

    charges: tuple[tuple[str, ResponseCode, int], ...] = ()
    refunds: tuple[tuple[str, int, int], ...] = ()
    afloat: tuple[ProviderCall, ...] = ()

    def net(self) -> int:
        """What the provider holds of the payer's money."""
        captured = sum(answer == ResponseCode.CAPTURED for _, answer, _ in self.charges)
        return captured * TOTAL - sum(value for _, value, _ in self.refunds)


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
    today: int = 0
    sent_on: int = 0

    def age(self, payment: Payment, sent_on: int) -> float:
        """How old a payment's key is, in seconds."""
        return (self.today - sent_on) * DAY if payment.key_sent else 0.0

    def quiet(self) -> bool:
        """Whether nothing is left to do."""
        return not (
            self.to_payments
            or self.to_orders
            or self.due
            or self.copy
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
    return replace(call, key=f"{call.key}:{attempt}")


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


def late_capture_kept(payment: Payment, call: ProviderCall, response: ProviderResponse, age: float) -> PaymentDecision:
    change = answered(payment, call, response, age)
    if change.event == PaymentCaptured and payment.cancelled:
        return PaymentDecision(
            payment=replace(change.payment, status=PaymentStatus.CAPTURED, refunds=()), event=change.event
        )
    return change


def answered(payment: Payment, call: ProviderCall, response: ProviderResponse, age: float) -> PaymentDecision:
    return payments.apply_response(payment, call, response, age, POLICY, NOW)


def unknown_is_declined(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float
) -> PaymentDecision:
    declined = call.kind != CallKind.REFUND and response.code == ResponseCode.UNKNOWN
    return answered(payment, call, replace(response, code=ResponseCode.DECLINED) if declined else response, age)


def may_send(payment: Payment, age: float) -> bool:
    return payments.may_send(payment, age, POLICY)


def always(_payment: Payment, _age: float) -> bool:
    return True


def unsent_after_any_refusal(
    payment: Payment, call: ProviderCall, response: ProviderResponse, age: float
) -> PaymentDecision:
    refused = response.code == ResponseCode.NOT_ATTEMPTED
    return answered(replace(payment, first_send=True) if refused else payment, call, response, age)


@dataclass(frozen=True)
class Rules:
    """The rules in force; `intent` records before the call that there will be one."""

    key: Callable[[ProviderCall, int], ProviderCall] = keyed
    fence: Callable[[World, Payment], Payment | None] = fenced
    meaning: Callable[[Payment, ProviderCall, ProviderResponse, float], PaymentDecision] = answered
    may_send: Callable[[Payment, float], bool] = may_send
    intent: bool = True
    not_found_proves: bool = False


# --- what can happen ---------------------------------------------------------------------------------------------


def steps(world: World, rules: Rules) -> Steps:
    """Everything that can happen next."""
    yield from clients(world)
    yield from relays(world)
    yield from operator(world, rules)
    yield from provider(world)
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
        try:
            change = orders.refund_reservation(order, "r", PART, "")
        except ApplicationError:
            return
        yield "refund", ordered(spend(world, "refunds"), change, RefundRequested)


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
    retried = payments.retry(world.payment)
    if rules.may_send(world.payment, world.age(world.payment, world.sent_on)):
        yield "an operator retries", recorded(world, world.payment, retried, logged=True)
    elif not world.books.afloat:
        yield from resolutions(world, payments.next_call(retried.payment))


def resolutions(world: World, call: ProviderCall) -> Steps:
    """What an operator does who sees the provider's books, which forget no money."""
    made = happened(world.books, call)
    if made is None and call.kind == CallKind.REFUND and call.refund_id != payments.CANCELLATION_REFUND:
        change = payments.drop_refund(world.payment, call.refund_id, "not made")
        yield "an operator drops the refund", recorded(world, world.payment, change, logged=True)
        return
    if made is None and call.kind == CallKind.REFUND:
        world, made = world._replace(books=refunded(world, call)), ResponseCode.REFUNDED
    response = ProviderResponse(code=made or ResponseCode.DECLINED)
    change = payments.resolve(world.payment, response, POLICY)
    yield f"an operator resolves it as {response.code}", recorded(world, world.payment, change, logged=True)


def provider(world: World) -> Steps:
    for call in world.books.afloat:
        rest = tuple(other for other in world.books.afloat if other is not call)
        books, _ = effect(world._replace(books=world.books._replace(afloat=rest)), call)
        yield f"a late {call.kind} takes effect", world._replace(books=books)


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
    taken = payments.claim(stored)
    if not rules.intent:
        taken = replace(taken, key_sent=stored.key_sent)
    sent_on = world.sent_on if stored.key_sent else world.today
    claimed = world._replace(payment=taken, owned=True, sent_on=sent_on)
    yield f"worker {number} claims", holding(claimed, number, Task(taken, sent_on))


def works(world: World, number: int, task: Task, rules: Rules) -> Steps:
    if task.response:
        yield f"worker {number} records {task.response.code}", settled(idle(world, number), task, rules)
        return
    if task.call:
        yield from sends(world, number, task, rules)
        return
    call = None if payments.park_if_exhausted(task.claimed, POLICY) else payments.next_call(task.claimed)
    if call is None:
        yield f"worker {number} has nothing to ask", settled(idle(world, number), task, rules)
        return
    call = rules.key(call, task.claimed.fencing_token)
    again = task.claimed.fencing_token > 1 or not rules.may_send(task.claimed, world.age(task.claimed, task.sent_on))
    known = found(world, call) if again else None
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
    more = {"refund_id": change.refund[0], "refund_value": change.refund[1]} if change.refund else {}
    return world._replace(order=order, to_payments=(*world.to_payments, make_event(kind, order.sequence, **more)))


def applied(order: Order, change: orders.OrderTransition, **more: int) -> Order:
    return replace(
        order,
        order_status=change.order_status,
        payment_status=change.payment_status,
        sequence=order.sequence + 1,
        refunds=(*order.refunds, change.refund) if change.refund else order.refunds,
        failed_refunds=(*order.failed_refunds, change.failed_refund) if change.failed_refund else order.failed_refunds,
        **more,
    )


def receive(world: World, event: Event) -> Steps:
    """What the receiver of an event stores; more than one possibility where it depends on the moment."""
    if not isinstance(event, OrderCreated | OrderCancelled | RefundRequested):
        change = orders.apply_payment_event(world.order, event)
        order = applied(world.order, change, payment_sequence=event.sequence) if change else world.order
        yield "arrives", world._replace(order=order)
    elif isinstance(event, OrderCreated):
        yield from opens(world, event)
    elif event.sequence <= world.payment.order_sequence:
        yield "is known", world
    else:
        change = (
            payments.cancel(world.payment)
            if isinstance(event, OrderCancelled)
            else payments.request_refund(world.payment, Refund(refund_id=event.refund_id, value=event.refund_value))
        )
        change = payments.with_cause(world.payment, change, event)
        yield "arrives", recorded(world, world.payment, change)
        if world.owned and change.due_in is not None:
            yield "arrives within the lease", recorded(world, world.payment, change, keeps_lease=True)


def opens(world: World, event: OrderCreated) -> Steps:
    if world.payment:
        yield "is known", world
        return
    fresh = payments.open_payment(event, CAPABILITIES)
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
        change = rules.meaning(current, task.call, task.response, world.age(current, world.sent_on))
    else:
        again = 0.0 if payments.next_call(current) else None
        change = payments.park_if_exhausted(current, POLICY) or PaymentDecision(payment=current, due_in=again)
    return recorded(world, current, change, logged=True)


def recorded(
    world: World, before: Payment, change: PaymentDecision, *, logged: bool = False, keeps_lease: bool = False
) -> World:
    after, entries = payments.reset_key_sent(before, change.payment), world.to_orders
    if change.event:
        after = replace(after, sequence=before.sequence + 1)
        entries = (*entries, EVENTS[change.event](change, after))
    world = world._replace(payment=after, to_orders=entries, logged=before.fencing_token if logged else world.logged)
    return world if keeps_lease else world._replace(due=change.due_in is not None, owned=False)


def effect(world: World, call: ProviderCall) -> tuple[Books, ProviderResponse]:
    """What the provider does when a request reaches it: at most one effect a key, as long as it knows the key."""
    books, known = world.books, found(world, call)
    if known:
        return books, known
    if call.kind == CallKind.REFUND:
        if call.value > books.net():
            return books, ProviderResponse(code=ResponseCode.DECLINED, reason="exceeds the charge")
        return refunded(world, call), ProviderResponse(code=ResponseCode.REFUNDED)
    verdict = ResponseCode.CAPTURED if call.product_id == "1" else ResponseCode.DECLINED
    answer = ResponseCode.VOIDED if call.kind == CallKind.VOID else verdict
    return books._replace(charges=(*books.charges, (call.key, answer, world.today))), ProviderResponse(code=answer)


def refunded(world: World, call: ProviderCall) -> Books:
    return world.books._replace(refunds=(*world.books.refunds, (call.key, call.value, world.today)))


def found(world: World, call: ProviderCall) -> ProviderResponse | None:
    """What the provider knows of a key: nothing of one that it first received on an earlier day."""
    books, today = world.books, world.today
    answer = happened(
        Books(
            charges=tuple(entry for entry in books.charges if entry[-1] == today),
            refunds=tuple(entry for entry in books.refunds if entry[-1] == today),
        ),
        call,
    )
    return ProviderResponse(code=answer) if answer else None


def happened(books: Books, call: ProviderCall) -> ResponseCode | None:
    """What became of a key."""
    if call.kind == CallKind.REFUND:
        return ResponseCode.REFUNDED if any(key == call.key for key, *_ in books.refunds) else None
    return next((answer for key, answer, _ in books.charges if key == call.key), None)


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
    PaymentCaptured: lambda _, after: make_event(PaymentCaptured, after.sequence, reference="", took_ms=0),
    PaymentDeclined: lambda _, after: make_event(PaymentDeclined, after.sequence, reason="", took_ms=0),
    PaymentVoided: lambda _, after: make_event(PaymentVoided, after.sequence),
    PaymentParked: lambda _, after: make_event(PaymentParked, after.sequence, reason=""),
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
    if sum(answer == ResponseCode.CAPTURED for _, answer, _ in world.books.charges) > 1:
        raise Broken("charged twice")
    if world.books.net() < 0:
        raise Broken("more was given back than was taken")
    if len({key for key, *_ in world.books.refunds}) < len(world.books.refunds):
        raise Broken("a refund was made twice")
    if not world.quiet():
        return
    order, payment = world.order, world.payment
    if order.order_status == PROCESSING or order.payment_status in (PaymentStatus.PROCESSING, PaymentStatus.REFUNDING):
        raise Broken(f"stuck as {order.order_status} / {order.payment_status}")
    held = 0 if order.order_status in (DECLINED, CANCELLED) else TOTAL - order.reserved
    if world.books.net() != held:
        raise Broken(f"{order.order_status}, the provider holds {world.books.net()} instead of {held}")
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


# --- tests -------------------------------------------------------------------------------------------------------


LIVES = {
    "cancelled while it is charged": ("1", Bounds(refunds=0, deaths=0)),
    "cancelled, and a worker dies": ("1", Bounds(refunds=0, copies=0)),
    "refunded in part and cancelled": ("1", Bounds(copies=0, deaths=0)),
    "refunded in part, and a worker dies": ("1", Bounds(cancels=0)),
    "declined": ("2", Bounds(refunds=0, deaths=0)),
    "cancelled, and the provider forgets": ("1", Bounds(refunds=0, copies=0, deaths=0, days=1)),
    "refunded in part, cancelled, and the provider forgets": ("1", Bounds(copies=0, expiries=0, deaths=0, days=1)),
    "a worker dies, and the provider forgets twice": ("1", Bounds(refunds=0, copies=0, expiries=0, days=2)),
}
if "ENUMERATE_ALL" in os.environ:
    LIVES = {
        "everything": ("1", Bounds()),
        "everything, and the provider forgets": ("1", Bounds(copies=0, expiries=0, days=1)),
    }


@pytest.mark.timeout(0 if "ENUMERATE_ALL" in os.environ else 120)
@pytest.mark.parametrize(("product", "bounds"), LIVES.values(), ids=LIVES)
def test_no_interleaving_charges_twice_keeps_wrong_books_or_never_settles(product, bounds, record_property):
    """ENUMERATE_ALL takes all that can go wrong together, which takes minutes."""
    found_out = explore(product, Rules(), bounds)
    record_property("states", found_out.states)
    record_property("transitions", found_out.transitions)
    print(f"{found_out.states:,} states, {found_out.transitions:,} transitions, {found_out.settled:,} settled")
    assert not found_out.broken, "\n".join([found_out.broken, *found_out.way])
    assert found_out.states > 5_000
    assert found_out.settled > 20


BROKEN = {
    "the attempt in the provider's key": (Rules(key=keyed_by_attempt), "charged twice"),
    "no fence": (Rules(fence=unfenced), ""),
    "a late capture is kept": (Rules(meaning=late_capture_kept), "stuck as Cancelled / Refunding"),
    "no intent before the call": (Rules(intent=False), "Cancelled, the provider holds 100 instead of 0"),
    "an unknown response taken for a decline": (
        Rules(meaning=unknown_is_declined),
        "Declined, the provider holds 100 instead of 0",
    ),
    "not found taken for proof": (Rules(not_found_proves=True), "Cancelled, the provider holds 100 instead of 0"),
}


@pytest.mark.parametrize(("rules", "how"), BROKEN.values(), ids=BROKEN)
def test_without_one_of_the_protections_there_is_a_way_to_break_an_order(rules, how):
    found_out = explore("1", rules, Bounds(refunds=0))
    print(f"\n{found_out.broken}:", *found_out.way, sep="\n  ")
    assert found_out.broken
    assert how in found_out.broken
    assert found_out.way


FORGETFUL = {
    "keys are sent at any age": (Rules(may_send=always), Bounds(refunds=0, days=1), "charged twice"),
    "an old key is voided": (
        Rules(may_send=lambda payment, age: payment.cancelled or may_send(payment, age)),
        Bounds(refunds=0, expiries=0, days=1),
        "Cancelled, the provider holds 100 instead of 0",
    ),
    "an old refund is sent": (
        Rules(may_send=lambda payment, age: bool(payment.captured) or may_send(payment, age)),
        Bounds(cancels=0, copies=0, expiries=0, days=1),
        "a refund was made twice",
    ),
    "a later refusal makes a key unsent": (
        Rules(meaning=unsent_after_any_refusal),
        Bounds(cancels=0, refunds=0, faults=2, copies=0, expiries=0, days=1),
        "charged twice",
    ),
}


@pytest.mark.parametrize(("rules", "bounds", "how"), FORGETFUL.values(), ids=FORGETFUL)
def test_without_the_rule_of_key_age_there_is_a_way_to_move_money_twice(rules, bounds, how):
    found_out = explore("1", rules, bounds)
    print(f"\n{found_out.broken}:", *found_out.way, sep="\n  ")
    assert found_out.broken
    assert how in found_out.broken
    assert "a day passes" in found_out.way
