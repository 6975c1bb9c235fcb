"""Dying at every step: victims that end where they are told to, and the new process that takes over from them.

A victim is a process of its own, forked from a server that has imported the application and nothing else. It plays
one scenario against a database of its own. A listener of the driver gives a point before and after every command,
a wrapped provider one before and after every call; at the armed one the victim kills itself, as hard as kill -9. Then
time is let pass (whatever is leased falls due) and another process starts, with all its threads, until nothing is
under way any more. What it finds wrong then is the cell's trouble.
"""

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import psutil
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.config import Settings
from app.doctor import Doctor
from app.main import create_app, runtime
from app.payments import providers
from app.payments.payment import Answer, Call, Outcome
from tests.chaos import sabotages

KILL, STOP = "SIGKILL", "SIGSTOP"
TOTAL = 9900
PATIENCE = 20.0
HOUR = {"unit": "hour", "amount": 1}
COLLECTIONS = ("orders", "payments", "ledger", "steps")

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["app.main", "tests.chaos.crash"])
# multiprocessing looks after all its children at every start: never while another thread waits for one.
family = threading.Lock()
composing = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scenario that ends at one point; no point: a run that only tells which points there are."""

    scenario: str
    uri: str = ""
    database: str = ""
    point: str = ""
    death: str = KILL
    sabotage: str = ""

    @property
    def name(self) -> str:
        """How a failure names it."""
        return f"{self.scenario}: {self.death} at {self.point or 'no point'}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the provider's books may hold of the order in the end."""

    answer: str
    refunded: int = 0
    refunds: int = 0


CAPTURED, DECLINED, VOIDED = Entry(answer="captured"), Entry(answer="declined"), Entry(answer="voided")
RETURNED = Entry(answer="captured", refunded=TOTAL, refunds=1)


def settings_for(cell: Cell) -> Settings:
    """Deadlines that a busy machine keeps; retries that come soon."""
    return Settings(
        mongodb_uri=cell.uri,
        database=cell.database,
        request_deadline=10.0,
        background_deadline=10.0,
        payment_timeout=9.0,
        payment_lease=30.0,
        payment_threads=1 if cell.scenario == "stop" else 2,
        payment_backoff=0.02,
        payment_backoff_max=0.1,
        relay_lease=30.0,
        sweep_interval=0.05,
        log_format="json",
        log_level="error",
    )


# --- the points ------------------------------------------------------------------------------------------------


class Points(CommandListener):
    """Numbers the steps of the process, and ends it at the armed one."""

    def __init__(self, cell: Cell, tell: Callable[..., None]) -> None:
        self._cell = cell
        self._tell = tell
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._under_way: dict[int, str] = {}
        self.counting = False

    def started(self, event: CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if self.counting and event.database_name == self._cell.database and isinstance(collection, str):
            self._under_way[event.request_id] = self.before(f"{collection}.{event.command_name}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._ended(event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        self._ended(event.request_id)

    def before(self, what: str) -> str:
        """A step begins; returns the name it is to end under."""
        with self._lock:
            self._counts[what] += 1
            name = f"{what} #{self._counts[what]}"
        self._reach(f"before {name}")
        return name

    def after(self, name: str) -> None:
        """A step has ended."""
        self._reach(f"after {name}")

    def _ended(self, request_id: int) -> None:
        name = self._under_way.pop(request_id, None)
        if name:
            self.after(name)

    def _reach(self, point: str) -> None:
        if not self.counting:
            return
        if not self._cell.point:
            self._tell("point", point)
        elif point == self._cell.point:
            self._tell("fired", point)
            # To this very thread: it must not take one more step while the signal looks for a thread to stop.
            signal.pthread_kill(threading.get_ident(), getattr(signal, self._cell.death))


class WatchedProvider:
    """The real provider between two points; can be held back, and can keep what it did to itself."""

    def __init__(self, provider: providers.Provider, points: Points) -> None:
        self._provider = provider
        self._points = points
        self.released = threading.Event()
        self.released.set()
        self.held = queue.Queue[str]()
        self.deaf = False
        self.mute = False

    def prepare(self) -> None:
        self._provider.prepare()

    def charge(self, call: Call) -> Outcome:
        return self._around("charge", call)

    def void(self, call: Call) -> Outcome:
        return self._around("void", call)

    def refund(self, call: Call) -> Outcome:
        return self._around("refund", call)

    def find(self, call: Call) -> Outcome | None:
        name = self._points.before("provider.find")
        found = self._provider.find(call)
        self._points.after(name)
        return found

    def _around(self, verb: str, call: Call) -> Outcome:
        name = self._points.before(f"provider.{verb}")
        if not self.released.is_set():
            self.held.put(verb)
            assert self.released.wait(PATIENCE)
        nothing_heard = Outcome(answer=Answer.UNKNOWN, reason="no answer")
        outcome = nothing_heard if self.deaf else getattr(self._provider, verb)(call)
        self._points.after(name)
        return nothing_heard if self.mute else outcome


# --- the scenarios ---------------------------------------------------------------------------------------------


class World:
    """A process of the application whose background work is done step by step, in the order in which it comes."""

    def __init__(self, cell: Cell, tell: Callable[..., None]) -> None:
        self.points = Points(cell, tell)
        self._tell = tell
        self._cell = cell
        self._provider: WatchedProvider | None = None
        self.app = create_app(settings_for(cell), make_provider=self._watched, event_listeners=[self.points])
        self.runtime = runtime(self.app)
        self._client = self.app.test_client()
        # A stale process has nothing to hand on: it must not wait for it.
        self._wait = 1.0 if cell.death == STOP else PATIENCE
        self.order_id = ""

    @property
    def provider(self) -> WatchedProvider:
        assert self._provider
        return self._provider

    def _watched(self, settings: Settings, ledger: Any) -> WatchedProvider:
        self._provider = WatchedProvider(providers.make(settings, ledger), self.points)
        return self._provider

    def place(self, product: str = "1", key: str = "only-one") -> None:
        self.order_id = place(self._client, product, key)
        self._tell("acknowledged", self.order_id)

    def cancel(self) -> None:
        cancel(self._client, self.order_id)

    def refund(self, value: int, key: str) -> None:
        refund(self._client, self.order_id, value, key)

    def hand_to_payments(self) -> None:
        """What the relay of orders does with what it was hinted."""
        hints = self.runtime.orders.outbox.take_hints(128, self._wait)
        assert hints, "orders recorded nothing"
        self.runtime.orders.relay.deliver(hints)

    def hand_to_orders(self) -> None:
        """What the relay of payments does with what it was hinted, as soon as something is."""
        hints = self.runtime.payments.outbox.take_hints(128, self._wait)
        assert hints, "payments recorded nothing"
        self.runtime.payments.relay.deliver(hints)

    def wait_for_result(self) -> None:
        """Until payments has recorded something; the hint of it is lost."""
        assert self.runtime.payments.outbox.take_hints(128, self._wait), "payments recorded nothing"

    def sweep(self, sweep: Callable[[], int]) -> None:
        """One sweep that finds something."""
        ends = time.monotonic() + self._wait
        while not sweep():
            assert time.monotonic() < ends, "there was nothing to take up"
            time.sleep(0.005)

    def pay(self) -> None:
        self.hand_to_payments()
        self.hand_to_orders()

    def pay_back(self) -> None:
        self.hand_to_payments()
        self.sweep(self.runtime.payments.worker.sweep)
        self.hand_to_orders()

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """Payments are recorded, but not begun."""
        self.runtime.payments.worker.draining = True
        yield
        self.runtime.payments.worker.draining = False

    def let_time_pass(self) -> None:
        """Every lease ends."""
        counting, self.points.counting = self.points.counting, False
        with MongoClient(self._cell.uri) as mongo:
            let_time_pass(mongo[self._cell.database])
        self.points.counting = counting

    def until_settled(self) -> None:
        """Watches from outside."""
        ends = time.monotonic() + PATIENCE
        with MongoClient(self._cell.uri) as mongo:
            while not at_rest(mongo[self._cell.database]):
                assert time.monotonic() < ends, "never settled"
                time.sleep(0.005)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`setup` comes before the points, `act` has them, `again` is what a client does that was left without answer.

    `ends` are the order's states when all is done, `books` what the provider may have booked by then; `least` is how
    few points there may be, `through` names some of them.
    """

    act: Callable[[World], None]
    ends: Sequence[tuple[str, str]]
    books: Sequence[tuple[Entry, ...]]
    least: int
    through: Sequence[str]
    setup: Callable[[World], None] = lambda world: world.place()
    again: Callable[[Any, str], None] = lambda client, order_id: None
    fresh: bool = False
    threads: bool = False


def place(client: Any, product: str = "1", key: str = "only-one") -> str:
    body = {"userId": "user-7", "productId": product, "productName": "Espresso", "totalOrderAmount": "MYR 99.00"}
    answer = client.post("/orders", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    return answer.json["created"]["id"]


def cancel(client: Any, order_id: str) -> None:
    answer = client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    assert answer.status_code == 200, answer.text


def refund(client: Any, order_id: str, value: int, key: str) -> None:
    answer = client.post(
        f"/orders/one/{order_id}/refunds",
        json={"amount": {"value": value, "currency": "MYR"}},
        headers={"Idempotency-Key": key},
    )
    assert answer.status_code == 201, answer.text


def _start(world: World) -> None:
    world.runtime.prepare()


def _create(world: World) -> None:
    world.place()
    world.place()


def _place_declined(world: World) -> None:
    world.place("2")


def _found_by_sweeps(world: World) -> None:
    with world.no_room():
        world.sweep(world.runtime.orders.relay.sweep)
    world.sweep(world.runtime.payments.worker.sweep)
    world.wait_for_result()
    world.let_time_pass()
    world.sweep(world.runtime.payments.relay.sweep)


def _place_unhinted(world: World) -> None:
    world.place()
    world.runtime.orders.outbox.take_hints(128, 0)
    world.let_time_pass()


def _answer_lost(world: World) -> None:
    world.provider.mute = True
    world.hand_to_payments()
    while world.runtime.payments.outbox.take_hints(128, 0):
        pass
    _until_given_up(world)
    world.provider.mute = False
    # Due now: a sweep that found nothing yet would be a point that does not always come.
    world.let_time_pass()
    world.sweep(world.runtime.payments.worker.sweep)
    world.hand_to_orders()


def _until_given_up(world: World) -> None:
    """Until the running call came to nothing and is to be repeated."""
    ends = time.monotonic() + PATIENCE
    with MongoClient(world._cell.uri) as mongo:
        payments = mongo[world._cell.database]["payments"]
        while not payments.find_one({"attempts.0": {"$exists": True}, "owner": {"$exists": False}}):
            assert time.monotonic() < ends, "the call never ended"
            time.sleep(0.005)


def _cancel_before_payment(world: World) -> None:
    with world.no_room():
        world.cancel()
        world.hand_to_payments()
    world.hand_to_orders()


def _begin_payment(world: World) -> None:
    world.place()
    world.provider.released.clear()
    world.hand_to_payments()
    world.provider.held.get(timeout=PATIENCE)


def _cancel_in_flight(world: World) -> None:
    world.cancel()
    world.hand_to_payments()
    world.provider.released.set()
    world.hand_to_orders()
    world.sweep(world.runtime.payments.worker.sweep)
    world.hand_to_orders()


def _unheard_charge(world: World) -> None:
    world.place()
    world.provider.deaf = True
    world.hand_to_payments()
    _until_given_up(world)
    world.provider.deaf = False


def _paid(world: World) -> None:
    world.place()
    world.pay()


def _cancel_and_settle(world: World) -> None:
    world.cancel()
    world.pay_back()


def _refund_twice(world: World) -> None:
    world.refund(2500, "some")
    world.pay_back()
    world.refund(7400, "rest")
    world.pay_back()


def _refund_twice_again(client: Any, order_id: str) -> None:
    refund(client, order_id, 2500, "some")
    refund(client, order_id, 7400, "rest")


def _two_of_which_one_waits(world: World) -> None:
    _begin_payment(world)
    world.place(key="another")
    world.hand_to_payments()


def _stop(world: World) -> None:
    world.runtime.drain()
    world.provider.released.set()
    world.wait_for_result()
    _until_unbegun(world)
    world.runtime.payments.stop(PATIENCE)
    world.runtime.orders.stop(PATIENCE)


def _until_unbegun(world: World) -> None:
    # Its thread has a line now, and sees that the process is about to stop.
    worker = world.runtime.payments.worker
    ends = time.monotonic() + PATIENCE
    while worker._running:
        assert time.monotonic() < ends, "the pool never came to rest"
        time.sleep(0.005)


def _live_pay(world: World) -> None:
    world.runtime.start()
    world.place()
    _until_the_end(world)


def _live_decline(world: World) -> None:
    world.runtime.start()
    world.place("2")
    _until_the_end(world)


def _live_cancel(world: World) -> None:
    world.runtime.start()
    world.place()
    world.until_settled()
    world.cancel()
    _until_the_end(world)


def _until_the_end(world: World) -> None:
    world.until_settled()
    # The last reply may be on its way to its thread yet: a stop waits for that.
    world.runtime.orders.stop(PATIENCE)
    world.runtime.payments.stop(PATIENCE)


def _nothing(world: World) -> None:
    """The scenario is its act."""


def _place_again(client: Any, _order_id: str) -> None:
    place(client)


def _place_declined_again(client: Any, _order_id: str) -> None:
    place(client, "2")


def _place_and_cancel_again(client: Any, order_id: str) -> None:
    cancel(client, order_id or place(client))


PAID = (("Success", "Captured"),)
REFUSED = (("Declined", "Declined"),)
SENT_BACK = (("Cancelled", "Refunded"),)
CALLED_OFF = (("Cancelled", "Voided"),)
STEPS_OF_PAY = (
    "orders.update",
    "payments.insert",
    "provider.charge",
    "ledger.insert",
    "payments.update",
)

SCENARIOS = {
    "start": Scenario(
        setup=_nothing,
        act=_start,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=12,
        through=("orders.create", "orders.createIndexes", "payments.createIndexes", "ledger.create", "steps.create"),
        fresh=True,
    ),
    "create": Scenario(
        setup=_nothing,
        act=_create,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=10,
        through=("orders.insert", "orders.find", "payments.find"),
    ),
    "pay": Scenario(act=World.pay, ends=PAID, books=[(CAPTURED,)], least=14, through=STEPS_OF_PAY),
    "decline": Scenario(
        setup=_place_declined, act=World.pay, ends=REFUSED, books=[(DECLINED,)], least=14, through=STEPS_OF_PAY
    ),
    "pay by sweeps": Scenario(
        setup=_place_unhinted,
        act=_found_by_sweeps,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=(*STEPS_OF_PAY, "payments.find"),
    ),
    "pay, the answer lost": Scenario(
        act=_answer_lost,
        ends=PAID,
        books=[(CAPTURED,)],
        least=24,
        through=(*STEPS_OF_PAY, "provider.find", "ledger.find"),
    ),
    "cancel before the payment": Scenario(
        act=_cancel_before_payment,
        again=cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(), (VOIDED,), (RETURNED,)],
        least=16,
        through=("orders.findAndModify", "payments.insert", "payments.update", "orders.update"),
    ),
    "cancel in flight": Scenario(
        setup=_begin_payment,
        act=_cancel_in_flight,
        again=cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(VOIDED,), (RETURNED,)],
        least=40,
        through=("orders.findAndModify", "ledger.insert", "provider.refund", "ledger.update", "payments.update"),
    ),
    "cancel, the charge unheard": Scenario(
        setup=_unheard_charge,
        act=_cancel_and_settle,
        again=cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(VOIDED,), (RETURNED,)],
        least=28,
        through=("orders.findAndModify", "provider.find", "provider.void", "ledger.insert", "payments.update"),
    ),
    "cancel after success": Scenario(
        setup=_paid,
        act=_cancel_and_settle,
        again=cancel,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=30,
        through=("orders.findAndModify", "provider.refund", "ledger.update", "payments.update"),
    ),
    "refund": Scenario(
        setup=_paid,
        act=_refund_twice,
        again=_refund_twice_again,
        ends=[("Success", "Refunded")],
        books=[(Entry(answer="captured", refunded=TOTAL, refunds=2),)],
        least=60,
        through=("orders.findAndModify", "provider.refund", "ledger.update", "payments.update"),
    ),
    "stop": Scenario(
        setup=_two_of_which_one_waits,
        act=_stop,
        ends=PAID,
        books=[(CAPTURED,)],
        least=4,
        through=("payments.update",),
    ),
    "threads: pay": Scenario(
        setup=_nothing,
        act=_live_pay,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=STEPS_OF_PAY,
        threads=True,
    ),
    "threads: decline": Scenario(
        setup=_nothing,
        act=_live_decline,
        again=_place_declined_again,
        ends=REFUSED,
        books=[(DECLINED,)],
        least=20,
        through=STEPS_OF_PAY,
        threads=True,
    ),
    "threads: cancel": Scenario(
        setup=_nothing,
        act=_live_cancel,
        again=_place_and_cancel_again,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=24,
        through=(*STEPS_OF_PAY, "provider.refund", "ledger.update"),
        threads=True,
    ),
}


# --- the processes ---------------------------------------------------------------------------------------------


def victim(cell: Cell, pipe: Any) -> None:
    """Play the scenario, and die where it is told."""
    tell = _teller(cell, pipe)
    try:
        world = World(cell, tell)
        scenario = SCENARIOS[cell.scenario]
        scenario.setup(world)
        world.points.counting = True
        scenario.act(world)
        world.points.counting = False
    except BaseException:
        tell("broken", traceback.format_exc(limit=-4))
    tell("done", "")
    # As a process that ends by itself, but without waiting for threads that may hang.
    os._exit(0)


def successor(cell: Cell, pipe: Any, acknowledged: Sequence[str], meanwhile: str) -> None:
    """Take over with all threads until nothing is under way, and tell every trouble.

    `meanwhile` is what a client does of whom the victim knows nothing: "cancel", or only "look".
    """
    tell = _teller(cell, pipe)
    try:
        app = create_app(settings_for(cell))
        running = runtime(app)
        running.start()
        for trouble in _troubles(cell, app, list(acknowledged), meanwhile):
            tell("trouble", trouble)
        running.stop()
    except BaseException:
        tell("trouble", traceback.format_exc(limit=-4))
    tell("done", "")
    os._exit(0)


def _teller(cell: Cell, pipe: Any) -> Callable[..., None]:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if cell.sabotage:
        sabotages.SABOTAGES[cell.sabotage]()
    guard = threading.Lock()

    def tell(kind: str, what: str) -> None:
        with guard:
            pipe.send((kind, what))

    return tell


def _troubles(cell: Cell, app: Any, acknowledged: list[str], meanwhile: str) -> Iterator[str]:
    scenario, database = SCENARIOS[cell.scenario], runtime(app).database
    with MongoClient(cell.uri, tz_aware=True) as mongo:
        stored = mongo[cell.database]
        _wait_until_prepared(stored)
        yield from _examined(database, stored, acknowledged, "")
        client = app.test_client()
        if meanwhile:
            for order_id in acknowledged if meanwhile == "cancel" else ():
                cancel(client, order_id)
            yield from _examined(database, stored, acknowledged, "cancelled meanwhile: ")
            return
        scenario.again(client, next(iter(acknowledged), ""))
        yield from _examined(database, stored, acknowledged, "done again: ")
        yield from _wrong_ends(scenario, stored, max(1, len(acknowledged)))


def _wait_until_prepared(stored: Any) -> None:
    ends = time.monotonic() + PATIENCE
    while len({*COLLECTIONS} & {*stored.list_collection_names()}) < len(COLLECTIONS):
        assert time.monotonic() < ends, "the new process never got ready"
        time.sleep(0.01)


def _examined(database: Any, stored: Any, acknowledged: Sequence[str], when: str) -> Iterator[str]:
    ends = time.monotonic() + PATIENCE
    while not at_rest(stored):
        if time.monotonic() > ends:
            yield f"{when}work goes on and on: {_under_way(stored)}"
            return
        time.sleep(0.01)
    stores = [database.collection(name, 10.0) for name in ("orders", "payments", "ledger")]
    report = Doctor(*stores, grace=0.0).examine(acknowledged, pause=0.05)
    yield from (f"{when}{one.invariant}: {one.detail}" for one in [*report.findings, *report.attention])


def _under_way(stored: Any) -> list[dict[str, Any]]:
    shown = (
        "orderStatus",
        "paymentStatus",
        "status",
        "relayDue",
        "relayFailures",
        "dueAt",
        "owner",
        "attempt",
        "attempts",
    )
    return [
        {name: doc[name] for name in shown if name in doc}
        for collection in ("orders", "payments")
        for doc in stored[collection].find()
    ]


def _wrong_ends(scenario: Scenario, stored: Any, expected: int) -> Iterator[str]:
    orders = list(stored["orders"].find())
    if len(orders) != expected:
        yield f"there are {len(orders)} orders instead of {expected}"
    for order in orders:
        state = (order["orderStatus"], order["paymentStatus"])
        if state not in scenario.ends:
            yield f"the order ended as {state}"
        booked = tuple(
            Entry(answer=one["answer"], refunded=one["refunded"], refunds=len(one["refunds"]))
            for one in stored["ledger"].find({"orderId": str(order["_id"])})
        )
        if booked not in scenario.books:
            yield f"the provider booked {booked}"


def at_rest(stored: Any) -> bool:
    """Whether nothing is under way: every hand-over marks the one side before it unmarks the other."""
    return not (
        stored["orders"].find_one({"relayDue": {"$exists": True}}, {"_id": 1})
        or stored["payments"].find_one({"$or": [{"dueAt": {"$exists": True}}, {"relayDue": {"$exists": True}}]})
    )


def let_time_pass(stored: Any) -> None:
    """Make due whatever is leased."""
    for name, due in (("orders", "relayDue"), ("payments", "relayDue"), ("payments", "dueAt")):
        earlier = {"$dateSubtract": {"startDate": f"${due}", **HOUR}}
        stored[name].update_many({due: {"$exists": True}}, [{"$set": {due: earlier}}])


# --- the laboratory --------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a process told before it ended."""

    told: list[tuple[str, str]] = field(default_factory=list)
    exitcode: int | None = None

    def of(self, kind: str) -> list[str]:
        return [what for one, what in self.told if one == kind]


class Process:
    """A forked process and what it tells."""

    def __init__(self, target: Callable[..., None], cell: Cell, *more: Any) -> None:
        self._pipe, other = forks.Pipe(duplex=False)
        self._process = forks.Process(target=target, args=(cell, other, *more), daemon=True)
        with family:
            self._process.start()
        other.close()
        self.seen = Seen()

    def until(self, kind: str = "") -> Seen:
        """What it told until the first of this kind, or until its end."""
        try:
            while not kind or not self.seen.of(kind):
                assert self._pipe.poll(3 * PATIENCE), f"a process hangs; it told {self.seen.told[-3:]}"
                self.seen.told.append(self._pipe.recv())
        except EOFError:
            with family:
                self._process.join(PATIENCE)
                self.seen.exitcode = self._process.exitcode
            self._pipe.close()
        return self.seen

    def wait_until_stopped(self) -> None:
        """Until SIGSTOP has reached it."""
        ends = time.monotonic() + PATIENCE
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < ends, "a process does not stop"
            time.sleep(0.001)

    def go_on(self) -> None:
        """After SIGSTOP."""
        os.kill(self._process.pid, signal.SIGCONT)


class Laboratory:
    """Runs cells side by side, each on a database of its own."""

    SIDE_BY_SIDE = 6

    def __init__(self, uri: str, mongo: MongoClient) -> None:
        self._uri = uri
        self._mongo = mongo
        self._databases = queue.Queue[str]()
        self._names = [f"crash_{uuid4().hex}" for _ in range(self.SIDE_BY_SIDE)]
        for name in self._names:
            self._databases.put(name)
            self._prepare(name)

    def close(self) -> None:
        """Nothing stays."""
        for name in self._names:
            self._mongo.drop_database(name)

    def points(self, scenario: str, sabotage: str = "") -> list[str]:
        """Every point of a scenario, found by playing it once; it must end well."""
        with self._database(fresh=SCENARIOS[scenario].fresh) as name:
            cell = Cell(scenario=scenario, uri=self._uri, database=name, sabotage=sabotage)
            seen = Process(victim, cell).until()
        assert not seen.of("broken"), seen.of("broken")[0]
        assert seen.exitcode == 0
        points = seen.of("point")
        return [point for point in points if _steady(point)] if SCENARIOS[scenario].threads else points

    def troubles(self, cells: Sequence[Cell]) -> list[str]:
        """What was wrong after each of the cells, none being the hope."""
        with ThreadPoolExecutor(self.SIDE_BY_SIDE) as hands:
            return [trouble for found in hands.map(self._play, cells) for trouble in found]

    def _play(self, cell: Cell) -> list[str]:
        with self._database(fresh=SCENARIOS[cell.scenario].fresh) as name:
            cell = replace(cell, uri=self._uri, database=name)
            found = self._killed(cell) if cell.death == KILL else self._stopped(cell)
            return [f"{cell.name}: {trouble}" for trouble in found]

    def _killed(self, cell: Cell) -> list[str]:
        seen = Process(victim, cell).until()
        if seen.exitcode != -signal.SIGKILL or seen.of("fired") != [cell.point]:
            return [f"the point never came; {seen.told[-2:]}"]
        return self._taken_over(cell, seen.of("acknowledged"))

    def _stopped(self, cell: Cell) -> list[str]:
        """The process hangs past its leases, others do its work and a client cancels; then it goes on."""
        process = Process(victim, cell)
        seen = process.until("fired")
        if not seen.of("fired"):
            return [f"the point never came; {seen.told[-2:]}"]
        process.wait_until_stopped()
        acknowledged = seen.of("acknowledged")
        found = self._taken_over(cell, [*{*acknowledged}], "cancel")
        process.go_on()
        process.until()
        return found + self._taken_over(cell, [*{*seen.of("acknowledged")}], "look")

    def _taken_over(self, cell: Cell, acknowledged: Sequence[str], meanwhile: str = "") -> list[str]:
        let_time_pass(self._mongo[cell.database])
        seen = Process(successor, cell, acknowledged, meanwhile).until()
        return seen.of("trouble") if seen.of("done") else [*seen.of("trouble"), "the new process died"]

    @contextmanager
    def _database(self, *, fresh: bool) -> Iterator[str]:
        name = self._databases.get(timeout=60)
        try:
            if fresh:
                self._mongo.drop_database(name)
            yield name
        finally:
            for collection in COLLECTIONS[:-1]:
                self._mongo[name][collection].delete_many({})
            if fresh:
                self._prepare(name)
            self._databases.put(name)

    def _prepare(self, name: str) -> None:
        # Werkzeug compiles its routes, and Python 3.11 does not bear that in two threads at once.
        with composing:
            app = create_app(settings_for(Cell(scenario="", uri=self._uri, database=name)))
        runtime(app).prepare()
        runtime(app).stop()


def _steady(point: str) -> bool:
    """Whether a point comes in every run, however the threads meet.

    Looks come as often as they like, the feed, which is on no order's way, may hold its lines beyond the end, and news
    that comes soon saves orders a write of its own for the acknowledgement.
    """
    _, what, number = point.split(maxsplit=2)
    if what.startswith("steps."):
        return False
    return number == "#1" or (number == "#2" and what == "payments.update")
