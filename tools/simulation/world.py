"""One seed: processes, clients, operators and faults in one virtual time, and the history that comes of it."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any
from zlib import crc32

from pymongo.database import Database

from app.config import Settings
from app.contracts.base import Event, Unavailable
from app.storage.mongodb import Store
from app.system import System
from tools.auditor.audit import Violation, audit
from tools.auditor.history import CAPTURE, REFUND, Answer, History, Movement, PlaceAnswer, ToldEvent
from tools.auditor.reading import movements
from tools.simulation.clients import SimulatedClient, final_order
from tools.simulation.coverage import PAIRS, needs_ledger, order_transitions, profile, watch
from tools.simulation.faults import (
    NOTIFICATION,
    DatabaseFault,
    NotificationFault,
    ProviderFault,
    WorldFault,
    database_faults,
    provider_faults,
)
from tools.simulation.notifier import SimulatedNotifier, SlowLedger
from tools.simulation.operators import SimulatedOperator
from tools.simulation.pay_outs import PayOuts
from tools.simulation.process import POISON, SimulatedBus, SimulatedProcess, module_of
from tools.simulation.provider import Bank
from tools.simulation.scheduler import START, Owner, Scheduler

COLLECTIONS = ("orders", "payments", "ledger", "notifications")
LAST_STEPS = 60
# Fewer than make a receiver count as broken: then its events wait for its repair, and none becomes a dead letter.
MOST_POISONED = 4
# How many orders an observer looks at.
OBSERVED = 8
# The steps in which everything must come to rest after the last fault, for each order and in all.
REST_STEPS, REST_STEPS_PER_ORDER = 5000, 200
# By how much each pause at rest is longer than the one before: every pause makes all processes look for due work.
REST_GROWTH = 4
OPERATOR_ROUNDS = 6
# An operator comes some hours later.
OPERATOR_SECONDS = 2 * 3600.0
DAY = 86_400.0
LONGEST_JUMP = 4 * DAY
# Ranges of a jump in seconds, from milliseconds to days.
JUMPS = ((0.001, 1.0), (1.0, 60.0), (60.0, 3600.0), (3600.0, DAY), (DAY, 4 * DAY))
# The chance of each fault at a step.
CHANCES = {
    WorldFault.JUMP: 0.012,
    WorldFault.KILL: 0.004,
    WorldFault.STOP: 0.002,
    WorldFault.OUTAGE: 0.001,
    WorldFault.NO_PRIMARY: 0.001,
    WorldFault.POISON: 0.001,
    WorldFault.AGAIN: 0.006,
    WorldFault.CLOSED_CARD: 0.008,
    WorldFault.OPERATOR: 0.006,
    WorldFault.ELSEWHERE: 0.002,
    WorldFault.DECISION: 0.01,
}
# The share of seeds with a bank that forgets keys; the others have the simulated provider, its ledger and notifications.
BANK_SHARE = 0.6
# The chance that time leaps where no task is ready, instead of going on to the next deadline.
LEAP_CHANCE = 0.2
COMMAND_CHANCE = 0.02
NOTIFICATION_CHANCE = 0.6
FORGERY_CHANCE = 0.5
FOCUS_CHANCE = 0.6
BOOST = 12
ONLY_RETRY_CHANCE = 0.5
APPROVED_SHARE = 0.6
# The chance that a seed that looks at a fault of a call parks each payment whose first outcome is unknown.
ONE_TRY_CHANCE = 0.5
NO_PRIMARY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of a seed consists of. `without` has faults that are left out; shrinking makes the numbers smaller.

    `orders` are placed by clients who go on to work on them, `crowd` by clients who do nothing else.
    """

    seed: int
    steps: int = 450
    orders: int = 5
    crowd: int = 30
    without: frozenset[str] = frozenset()


@dataclass
class Result:
    """The end of a run: its violations, how often each thing was taken, and the last steps in words."""

    plan: Plan
    violations: list[Violation]
    taken: Counter[tuple[str, str]]
    last_steps: Sequence[str]
    steps: int
    virtual_seconds: float
    orders: int
    digest: int = 0


class World(Owner):
    """Everything of one seed. It decides what goes wrong, and records what others see."""

    def __init__(self, plan: Plan, database: Database[Any]) -> None:
        super().__init__("the world")
        self.plan = plan
        self.scheduler = Scheduler(self._random("schedule"))
        self.world = self
        self.taken: Counter[tuple[str, str]] = Counter()
        self.poisoned: set[str] = set()
        self.faulting = True
        self._database = database
        self._faults, self._times, self._line, self._forger = map(self._random, ("faults", "times", "line", "forger"))
        # Each seed looks at one fault at one step, so that rare ones have their turn.
        self._focus = PAIRS[plan.seed % len(PAIRS)]
        self._chances = dict(CHANCES)
        self._profile = profile(self._focus[1])
        for fault in self._profile.faults:
            self._chances[fault] *= BOOST
        self._delivered: list[tuple[Event, ...]] = []
        self._outage_until = self._no_primary_until = 0.0
        self._waiting: dict[Owner, list[threading.Event]] = {}
        self._log: deque[str] = deque(maxlen=LAST_STEPS)
        self._digest = 0
        self._births = 0
        draw = self._random("settings")
        key_hours = draw.choice((24.0, 24.0, 2.0))
        self._settings = Settings(
            mongodb_uri="mongodb://simulated",
            provider_key_hours=key_hours,
            payment_horizon=key_hours * 3600 * 5 / 6,
            payment_tries=min(draw.choice((12, 12, 4)), self._fewest_tries()),
            relay_tries=1 if self._profile.few_tries else draw.choice((8, 3)),
            sweep_interval=draw.choice((60.0, 3600.0)),
            breaker_failures=draw.choice((3, 10**6)),
            payment_pending_hours=draw.choice((24.0, 1.0)),
            authorization_days=draw.choice((6.0, 0.25)),
            log_level="error",
        )
        self.history = History(idempotency_seconds=self._settings.idempotency_hours * 3600)
        self._split = draw.random() < 0.3
        self.bank = (
            Bank(now=lambda: self.scheduler.now, life=key_hours * 3600, searchable=draw.random() < 0.3)
            if draw.random() < BANK_SHARE and not needs_ledger(self._focus[1])
            else None
        )
        self.notifier = None if self.bank else SimulatedNotifier(self, database["ledger"], self._random("provider"))
        paid = self.bank.movements if self.bank else self.history.movements
        self.pay_outs = PayOuts(database["payments"], paid.append)
        self._processes: list[SimulatedProcess | None] = [None] * draw.choice((1, 2))

    def run(self) -> Result:
        """Run the plan, and judge it."""
        try:
            for number in range(len(self._processes)):
                self._start(number)
            clients = [
                SimulatedClient(self, number, self._random(f"client {number}"), self._profile)
                for number in range(self.plan.orders)
            ]
            for number, client in enumerate(clients):
                self.scheduler.spawn(self, f"client {number}", client.live)
            self._observer = clients[0]
            for number in range(min(self.plan.crowd, self._profile.crowd)):
                crowd = SimulatedClient(
                    self, self.plan.orders + number, self._random(f"client {number} of the crowd"), crowd=True
                )
                self.scheduler.spawn(self, f"client {number} of the crowd", crowd.place_only)
            while self.scheduler.steps < self.plan.steps:
                self._inject()
                self._step()
            return self.result(self._end())
        finally:
            self.scheduler.close()

    def result(self, violations: list[Violation]) -> Result:
        """The result so far, with these violations."""
        return Result(
            self.plan,
            violations,
            self.taken,
            [*self._log],
            self.scheduler.steps,
            self.scheduler.now - START,
            len(self.history.final),
            self._digest,
        )

    # What processes, clients and operators ask of the world.

    def database_fault(self, step: str, method: str) -> DatabaseFault | None:
        """The fault of a command; the provider's own ledger has none."""
        site = f"{step} {method}"
        self.taken["step", site] += 1
        if step.startswith("ledger"):
            return None
        fault = self._command_fault(site, database_faults(method), COMMAND_CHANCE)
        return DatabaseFault(fault) if fault else None

    def provider_fault(self, verb: str) -> ProviderFault | None:
        """The fault of a call."""
        site = f"provider {verb}"
        self.taken["step", site] += 1
        if self.scheduler.now < self._outage_until and verb != "find":
            return ProviderFault.REFUSED
        fault = self._command_fault(site, provider_faults(verb), self._profile.call_chance)
        return ProviderFault(fault) if fault else None

    def notification_fault(self) -> NotificationFault | None:
        """The fault of a notification."""
        self.taken["step", NOTIFICATION] += 1
        kinds = (NotificationFault.UNKNOWN_ORDER,) if self._profile.foreign else tuple(NotificationFault)
        fault = self._command_fault(NOTIFICATION, kinds, NOTIFICATION_CHANCE)
        return NotificationFault(fault) if fault else self._forgery()

    def forged(self, order_id: str) -> None:
        """Record that a notification was accepted that the provider has not signed."""
        self.history.problems.append(f"a forged notification of order {order_id} was accepted")

    def ledger(self, store: Store, system: System) -> SlowLedger:
        """The simulated provider's ledger as a process reaches it."""
        assert self.notifier
        return SlowLedger(store, system, self._line, self.notifier.announce)

    def has_primary(self) -> bool:
        """Whether the database can be reached."""
        return self.scheduler.now >= self._no_primary_until

    def hang_seconds(self) -> float:
        """How long a call hangs: up to a minute, or for days."""
        return self._draw_seconds(self._faults)

    def line_share(self) -> float:
        """How late a copy of a call is: at once, within some steps, or up to the longest time."""
        return self._line.choice((0.0, 0.05, 1.0)) * self._line.random()

    def die(self, owner: Owner) -> None:
        """End a process; does not return where a task of it calls this."""
        self._kill(owner)
        if self.scheduler.current.owner is owner:
            self.scheduler.vanish()

    def receiver_of(self, sender: SimulatedBus) -> SimulatedBus | None:
        """The bus that receives what a process publishes: its own, or any process's where modules are split."""
        if not self._split:
            return sender
        process = self.some_process(self._faults)
        return process.bus if process else None

    def told(self, events: Sequence[Event]) -> None:
        """Record events that were delivered."""
        self._delivered.append(tuple(events))
        self.history.told += [
            ToldEvent(
                order_id=event.order_id,
                module=module_of(event),
                sequence=event.sequence,
                type=type(event).__name__,
                event_id=event.event_id,
                value=getattr(event, "refund_value", getattr(event, "dispute_value", 0)),
            )
            for event in events
        ]

    def record(self, answer: Answer) -> None:
        """Record what a client was answered."""
        self._note(f"a client learns: {answer}")
        self.history.answers.append(answer)

    def took(self, kind: str, what: str) -> None:
        """Count something that must be taken by some seed."""
        self.taken[kind, what] += 1

    def some_process(self, random: Random) -> SimulatedProcess | None:
        """A process that is alive; None where none is."""
        alive = [process for process in self._processes if process and process.alive]
        return random.choice(alive) if alive else None

    def wait_for_reply(self, done: threading.Event, owner: Owner, seconds: float) -> None:
        """Wait until something is done, its process dies, or time is over."""
        waiting = self._waiting.setdefault(owner, [])
        waiting.append(done)
        self.scheduler.wait(done, seconds, "waits for an answer")
        waiting.remove(done)

    def captured(self, order_id: str) -> bool:
        """Whether the bank has captured money for an order."""
        return any(one.order_id == order_id and one.kind == CAPTURE for one in self._movements())

    def refunded(self, key: str) -> bool:
        """Whether the bank has made a refund."""
        return any(one.key == key and one.kind == REFUND for one in self._movements())

    def by_other_means(self, order_id: str) -> bool:
        """Whether an operator has to give an order's money back by other means than a refund at the provider."""
        return not self.notifier or self.notifier.fails_refunds(order_id)

    # Faults.

    def _inject(self) -> None:
        for fault, chance in self._chances.items():
            # Drawn in any case: a fault that is left out does not change the others.
            hit = self._faults.random() < chance
            seed = self._faults.getrandbits(32)
            if hit and fault not in self.plan.without:
                self._cause(fault, Random(seed))  # noqa: S311 - a simulation

    def _cause(self, fault: WorldFault, random: Random) -> None:
        self.taken["world fault", fault] += 1
        self._note(f"FAULT {fault}")
        causes: dict[WorldFault, Callable[[Random], object]] = {
            WorldFault.JUMP: lambda _: self._advance(self._draw_seconds(random)),
            WorldFault.KILL: self._kill_one,
            WorldFault.STOP: self._stop_one,
            WorldFault.OUTAGE: self._stop_provider,
            WorldFault.NO_PRIMARY: self._lose_primary,
            WorldFault.POISON: self._poison_one,
            WorldFault.AGAIN: self._deliver_again,
            WorldFault.CLOSED_CARD: self._close_card,
            WorldFault.OPERATOR: self._let_operator_act,
            WorldFault.ELSEWHERE: self._refund_elsewhere,
            WorldFault.DECISION: self._let_decide,
        }
        causes[fault](random)

    def _kill_one(self, random: Random) -> None:
        if process := self.some_process(random):
            self._kill(process)

    def _stop_one(self, random: Random) -> None:
        if process := self.some_process(random):
            self.scheduler.spawn(process, "stop", lambda: self._stop(process))

    def _stop_provider(self, random: Random) -> None:
        self._outage_until = self.scheduler.now + self._draw_seconds(random)
        self.scheduler.spawn(self, "observer", self._observe_pauses)

    def _lose_primary(self, random: Random) -> None:
        self._no_primary_until = self.scheduler.now + random.random() * NO_PRIMARY_SECONDS

    def _poison_one(self, random: Random) -> None:
        orders = self._placed()
        if orders and len(self.poisoned) < MOST_POISONED:
            self.poisoned.add(random.choice(orders))

    def _deliver_again(self, random: Random) -> None:
        process = self.some_process(random)
        if process and self._delivered:
            events = random.choice(self._delivered)
            if not any(event.order_id in self.poisoned for event in events):
                again = partial(SimulatedBus.receive, process.bus, events)
                self.scheduler.spawn(process, "an event comes again", again)

    def _close_card(self, random: Random) -> None:
        asked = [*{answer.order_id: 1 for answer in self.history.answers if not isinstance(answer, PlaceAnswer)}]
        if asked and self.bank:
            self.bank.closed.add(random.choice(asked))

    def _let_operator_act(self, random: Random) -> None:
        if process := self.some_process(random):
            self._attend(process, only_retry=random.random() < ONLY_RETRY_CHANCE)

    def _refund_elsewhere(self, random: Random) -> None:
        notifier, orders, share = self.notifier, self._at_provider("answer"), random.choice((1.0, random.random()))
        if notifier and orders:
            order_id = random.choice(orders)

            def refund() -> None:
                with self.pay_outs.refunding_elsewhere(order_id) as free:
                    if free:
                        notifier.refund_elsewhere(order_id, share)

            self.scheduler.spawn(self, "a refund elsewhere", refund)

    def _let_decide(self, random: Random) -> None:
        notifier, orders, approve = self.notifier, self._at_provider("token"), random.random() < APPROVED_SHARE
        if notifier and orders:
            order_id = random.choice(orders)
            self.scheduler.spawn(self, "a decision", lambda: notifier.decide(order_id, approve))

    def _at_provider(self, member: str) -> list[str]:
        """The orders whose payment has this member in the provider's ledger."""
        found = self._database["ledger"].find({member: {"$exists": True}}, {"orderId": 1}).sort("_id", 1)
        return [entry["orderId"] for entry in found]

    def _placed(self) -> list[str]:
        """The ids that clients have proposed or learned, in their order."""
        return [*{answer.order_id: 1 for answer in self.history.answers if isinstance(answer, PlaceAnswer)}]

    def _command_fault(self, site: str, kinds: Sequence[str], chance: float) -> str | None:
        die, pick = self._faults.random(), self._faults.random()
        if not self.faulting:
            return None
        kind = kinds[int(pick * len(kinds))]
        if self._focus[1] == site and die < FOCUS_CHANCE:
            kind = self._focus[0]
        elif die >= chance:
            return None
        if kind in self.plan.without:
            return None
        self.taken["pair", f"{kind} at {site}"] += 1
        self._note(f"FAULT {kind} at {site}")
        return kind

    def _forgery(self) -> NotificationFault | None:
        """Forged notifications come also when faults have ended: a sound receiver takes no harm."""
        if self._forger.random() >= FORGERY_CHANCE or NotificationFault.FORGED in self.plan.without:
            return None
        self.taken["pair", f"{NotificationFault.FORGED} at {NOTIFICATION}"] += 1
        self._note(f"FAULT {NotificationFault.FORGED} at {NOTIFICATION}")
        return NotificationFault.FORGED

    def _draw_seconds(self, random: Random) -> float:
        low, high = random.choice(JUMPS)
        return random.uniform(low, high)

    def _observe_pauses(self) -> None:
        """A client looks at some orders now and then while the provider is out of order, until faults have ended."""
        for _ in range(4):
            self.scheduler.wait(None, 2.0, "looks later")
            if not self.faulting:
                return
            for order_id in self._placed()[:OBSERVED]:
                self._observer.explain(order_id)

    def _attend(self, process: SimulatedProcess, *, only_retry: bool) -> None:
        def attend() -> None:
            operator = SimulatedOperator(self, process)
            try:
                operator.replay()
                operator.reconcile()
                operator.review(only_retry=only_retry)
            except (Unavailable, OSError):
                self.took("recovery", "operator is told: the database does not answer")

        self.scheduler.spawn(process, "operator", attend)

    def _stop(self, process: SimulatedProcess) -> None:
        """SIGTERM, and SIGKILL before running calls have ended."""
        process.payments.drain()
        process.payments.worker.stop(0.0)
        process.orders.drain()
        self.die(process)

    def _kill(self, owner: Owner) -> None:
        self._note(f"{owner.name} dies")
        self.scheduler.kill(owner)
        for event in self._waiting.pop(owner, ()):
            event.set()
        self._processes = [None if process is owner else process for process in self._processes]

    # The course of time.

    def _step(self) -> None:
        for number, process in enumerate(self._processes):
            if process is None and self._times.random() < 0.1:
                self._start(number)
        task = self.scheduler.run_one()
        if task:
            self._note(f"{task}: {task.site}")
        else:
            longer = self._draw_seconds(self._times) if self._times.random() < LEAP_CHANCE else 0.0
            self._advance(max(self.scheduler.next_deadline(), longer) + 0.001)

    def _advance(self, seconds: float) -> None:
        passed = self.scheduler.advance(min(seconds, LONGEST_JUMP))
        if passed > 1.0:
            self._note(f"{passed:.3f} s pass")

    def _start_missing(self) -> None:
        for number, process in enumerate(self._processes):
            if process is None:
                self._start(number)

    def _start(self, number: int) -> None:
        self._births += 1
        process = SimulatedProcess(
            f"process {number}.{self._births}",
            self,
            self._settings,
            self._database,
            self._random(f"process {self._births}").getrandbits(64),
        )
        watch(process, self.took)
        self._processes[number] = process
        self._note(f"{process.name} starts")

    # The end.

    def _end(self) -> list[Violation]:
        """Let everything come to rest, first with what operators must repair, then without."""
        self.faulting = False
        self._outage_until = self._no_primary_until = 0.0
        self._rest()
        process = next(process for process in self._processes if process)
        operator = SimulatedOperator(self, process)
        self._do(operator.reconcile)
        self._rest()
        # What an operator recorded whose process died then.
        self.pay_outs.pay_recorded()
        waiting = self._waiting_for(operator)
        self._read_all(process)
        self.history.operator_list = {*waiting}
        violations = audit(replace(self.history, movements=[*self._movements()]))
        if violations:
            return violations
        self.poisoned.clear()
        for _ in range(OPERATOR_ROUNDS):
            if not waiting:
                break
            self.scheduler.advance(OPERATOR_SECONDS)
            self._do(operator.replay)
            self._do(operator.review)
            self._rest()
            self._do(operator.reconcile)
            self._rest()
            waiting = self._waiting_for(operator)
        if self.history.operator_list:
            self._read_all(process)
        self.history.operator_list = set()
        return audit(replace(self.history, movements=[*self._movements()]))

    def _waiting_for(self, operator: SimulatedOperator) -> dict[str, str]:
        """The orders that an operator is shown, with the reasons. One order's poison must not be another's."""
        waiting: dict[str, str] = {}
        self._do(lambda: waiting.update(operator.waiting()))
        self.history.problems += [
            f"{order_id} waits for an operator because of another order: {reason}"
            for order_id, reason in waiting.items()
            if POISON in reason and f"{POISON} {order_id}" not in reason
        ]
        return waiting

    def _rest(self) -> None:
        """Run until no work is left, or too many steps were needed."""
        last = self.scheduler.steps + REST_STEPS + REST_STEPS_PER_ORDER * (self.plan.orders + self.plan.crowd)
        pause = 1.0
        while self.scheduler.steps < last:
            # A process that was told to stop may end only now.
            self._start_missing()
            if self.scheduler.run_one() is None:
                if self._at_rest():
                    return
                # Longer and longer, since a hung call may take days.
                self._advance(max(pause, self.scheduler.next_deadline()) + 0.001)
                pause = min(REST_GROWTH * pause, DAY)
        self.history.problems.append(f"work has not ended: {self._unfinished()}")

    def _do(self, *works: Callable[[], object]) -> None:
        """Run work of operators or clients to its end."""
        tasks = [self.scheduler.spawn(self, "end", work) for work in works]
        last = self.scheduler.steps + REST_STEPS + len(works) * REST_STEPS_PER_ORDER
        while self.scheduler.steps < last and not all(task.ended for task in tasks):
            if self.scheduler.run_one() is None:
                self._advance(self.scheduler.next_deadline() + 0.001)
        if not all(task.ended for task in tasks):
            self.history.problems.append("an operator or a client got no answer")

    def _read_all(self, process: SimulatedProcess) -> None:
        def read(order_id: str) -> None:
            final = final_order(process, order_id)
            if final:
                self.history.final[order_id] = final

        self._do(*(partial(read, order_id) for order_id in self._placed()))
        for final in self.history.final.values():
            self.taken.update(("order transition", name) for name in order_transitions(final))
            self.taken.update(("timeline", step.type) for step in final.timeline)

    def _at_rest(self) -> bool:
        return not self.scheduler.has_work() and not self._unfinished()

    def _unfinished(self) -> list[str]:
        """The documents with work that is neither done nor waits for an operator."""
        open_outbox = {"outbox.0": {"$exists": True}, "deadLetter": {"$exists": False}}
        orders = self._database["orders"].find(open_outbox, {"_id": 1})
        payments = self._database["payments"].find({"$or": [open_outbox, {"dueAt": {"$exists": True}}]}, {"_id": 1})
        return [f"{doc['_id']}" for doc in [*orders, *payments]]

    def _movements(self) -> Sequence[Movement]:
        if self.bank:
            return self.bank.movements
        return [*movements(self._database["ledger"].find()), *self.history.movements]

    def _fewest_tries(self) -> int:
        one = self._focus[1].startswith("provider") and self._random("tries").random() < ONE_TRY_CHANCE
        return 1 if one else 12

    def _random(self, purpose: str) -> Random:
        return Random(f"{self.plan.seed} {purpose}")  # noqa: S311 - a simulation

    def _note(self, text: str) -> None:
        line = f"{self.scheduler.steps:5} {self.scheduler.now:.3f}  {text}"
        self._log.append(line)
        self._digest = crc32(line.encode(), self._digest)
