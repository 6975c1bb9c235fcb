"""The two processes of a cell: the one that dies, and the one that takes over and reports violations."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from pymongo import MongoClient

from app import webhooks
from app.doctor import Doctor
from app.gateway.security import admission
from app.main import create_app, runtime
from app.payments.providers import entries
from app.payments.providers.notification_sender import NotificationSender
from app.storage import mongodb
from app.webhooks.delivery import RetrySchedule
from tests.chaos.crash import careless_webhooks, clients, deciding_notifications, judge
from tests.chaos.crash.auditing import Auditing, getter
from tests.chaos.crash.cells import TIMEOUT_SECONDS, Cell, settings_for
from tests.chaos.crash.judge import Stored
from tests.chaos.crash.opening_provider import charged_before_its_id_is_stored
from tests.chaos.crash.scenario import Scenario
from tests.chaos.crash.scenarios import SCENARIOS
from tests.chaos.crash.world import World
from tools.simulation.mutations import MUTATIONS

VARIANTS = {
    **MUTATIONS,
    **deciding_notifications.VARIANTS,
    **careless_webhooks.VARIANTS,
    charged_before_its_id_is_stored.__name__: charged_before_its_id_is_stored,
}
COLLECTIONS = ("orders", "payments", "ledger", "notifications", "webhook_endpoints", "webhook_deliveries", "stages")

# A heartbeat may be late on a busy machine.
mongodb.CONNECT_TIMEOUT_MS = 15_000


def victim(cell: Cell, pipe: Any) -> None:
    """Plays the scenario and dies at the armed point."""
    tell = _teller(cell, pipe)
    _check_backlogs_every_time()
    # By itself nothing goes on while the scenario runs: it lets the time pass.
    entries.DELAY = timedelta(minutes=30)
    try:
        scenario = SCENARIOS[cell.scenario]
        world = World(cell, scenario.all_settings, tell, scenario.make_provider)
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
    """Takes over with all threads until no work runs, and reports every violation.

    `meanwhile` is an action of a client unknown to the victim: "cancel", or only "look".
    """
    tell = _teller(cell, pipe)
    entries.DELAY = entries.ACTION_LIFE = timedelta(seconds=0.05)
    NotificationSender.INTERVAL_SECONDS = 0.05
    webhooks.RETRIES = RetrySchedule((0.05,) * 9)
    try:
        scenario = SCENARIOS[cell.scenario]
        app = create_app(settings_for(cell, scenario.all_settings), make_provider=scenario.make_provider)
        running = runtime(app)
        running.start()
        for violation in _troubles(cell, app, list(acknowledged), meanwhile):
            tell("violation", violation)
        running.stop()
    except BaseException:
        tell("violation", traceback.format_exc(limit=-4))
    tell("done", "")
    os._exit(0)


def _check_backlogs_every_time() -> None:
    # Checked once a second with a short time-out, they would be points that do not always come.
    admission.CHECK_INTERVAL_SECONDS = 0.0
    mongodb.BACKLOG_TIMEOUT_SECONDS = TIMEOUT_SECONDS


def _teller(cell: Cell, pipe: Any) -> Callable[..., None]:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if cell.variant:
        VARIANTS[cell.variant]()
    guard = threading.Lock()

    def tell(kind: str, what: str) -> None:
        with guard:
            pipe.send((kind, what))

    return tell


def _troubles(cell: Cell, app: Any, acknowledged: list[str], meanwhile: str) -> Iterator[str]:
    with MongoClient(cell.uri, tz_aware=True) as mongo:
        named = mongo[cell.database]
        _wait_until(lambda: not {*COLLECTIONS} - {*named.list_collection_names()}, "the new process never got ready")
        after = Aftermath(SCENARIOS[cell.scenario], app, Stored.of(named), acknowledged)
        yield from after.examined("")
        yield from after.cancelled(meanwhile == "cancel") if meanwhile else after.done_again()


class Aftermath:
    """The data that a victim left, in a working process; it is judged whenever no work runs."""

    def __init__(self, scenario: Scenario, app: Any, stored: Stored, acknowledged: Sequence[str]) -> None:
        self._scenario = scenario
        self._client = app.test_client()
        self._database = runtime(app).database
        self._stored = stored
        self._acknowledged = acknowledged
        self._auditing = Auditing(stored, getter(self._client), acknowledged)

    def examined(self, when: str, *, to_the_end: bool = False) -> Iterator[str]:
        """Yields violations; before the end an order may still wait for an operator."""
        operator_comes = self._scenario.operator is not None and not to_the_end
        self._wait_until_settled()
        wrong = list(judge.violations(self._stored, self._acknowledged, operator_comes=operator_comes))
        yield from (f"{when}{violation}" for violation in wrong)
        yield from (f"{when}the doctor: {violation}" for violation in self._second_opinion(operator_comes))
        yield from (f"{when}{violation}" for violation in self._auditing.violations(operator_comes=operator_comes))

    def cancelled(self, cancels: bool) -> Iterator[str]:
        """A client unknown to the victim cancels, or only reads."""
        for order_id in self._acknowledged if cancels else ():
            clients.cancel(self._client, order_id)
            self._auditing.cancelled(order_id)
        yield from self.examined("cancelled meanwhile: ")

    def done_again(self) -> Iterator[str]:
        """The client without an answer repeats its request, and the operator acts."""
        order_id = next(iter(self._acknowledged), "")
        self._scenario.again(self._client, order_id)
        if self._scenario.operator:
            self._wait_until_settled()
            judge.let_time_pass(self._stored)
            self._scenario.operator(self._client, order_id)
        yield from self.examined("done again: ", to_the_end=True)
        yield from _wrong_ends(self._scenario, self._stored, max(1, len(self._acknowledged)))

    def _wait_until_settled(self) -> None:
        _wait_until(
            lambda: judge.at_rest(self._stored),
            lambda: f"settled in time: work does not end: {judge.under_way(self._stored)}",
        )

    def _second_opinion(self, operator_comes: bool) -> Iterator[str]:
        """Yields the findings of the doctor; none if it sees that the order waits for an operator."""
        stores = [self._database.collection(name, 10.0) for name in ("orders", "payments", "ledger")]
        report = Doctor(*stores, grace=0.0).examine(self._acknowledged, pause=0.05)
        if not (operator_comes and report.needs_operator):
            yield from (f"{one.check}: {one.detail}" for one in [*report.violations, *report.needs_operator])


def _wait_until(holds: Callable[[], bool], otherwise: str | Callable[[], str]) -> None:
    ends = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < ends, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.01)


def _wrong_ends(scenario: Scenario, stored: Stored, expected: int) -> Iterator[str]:
    orders = list(stored.orders.find())
    if len(orders) != expected:
        yield f"there are {len(orders)} orders instead of {expected}"
    for order in orders:
        state = (order["orderStatus"], order["paymentStatus"])
        if state not in scenario.ends:
            yield f"the order ended as {state}"
        booked = judge.booked(stored, str(order["_id"]))
        if booked not in scenario.books:
            yield f"the provider booked {booked}"
