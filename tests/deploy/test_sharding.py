"""The shards that each query and write of orders and payments reaches, as MongoDB's own router routes it.

Every public call of the repositories is made on one replica set; its commands are then sent to a sharded cluster with the
same documents. They must have the same effect there, and each shard's profiler records what arrived. The table in
docs/scaling.md must say the same.
"""

import re
from collections import defaultdict
from pathlib import Path

import bson
import msgspec
import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener

from app.messaging.outbox import Outbox
from app.orders import documents as of_orders
from app.orders import order
from app.orders.documents import NEWEST_FIRST
from app.orders.order import OrderTransition
from app.orders.queries import OrderQueries
from app.orders.repository import OrderRepository
from app.payments import documents as of_payments
from app.payments.repository import PaymentRepository
from tests.deploy.sharded import ENVELOPE, ROUTED, SHARDS, ShardedCluster
from tests.orders.reads import an_update
from tests.storage.test_indexes import USES, captured, new_in, parts  # noqa: F401 - a fixture

pytestmark = pytest.mark.extended

PAGE = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
COLLECTIONS = ("orders", "payments")
TARGETED, EVERYWHERE = "one shard", "all shards"
# A findAndModify without the shard key is refused before MongoDB 7.1, and sent to all shards since.
UNTARGETED = "refused before MongoDB 7.1, all shards since"
CANNOT_CREATE_INDEX = 67


class CommandRecorder(CommandListener):
    """Records the commands sent to the database, with their replies."""

    def __init__(self):
        self.sent = []
        self._started = {}

    def started(self, event):
        self._started[event.request_id] = event.command

    def succeeded(self, event):
        command = self._started.pop(event.request_id)
        if event.command_name in (*ROUTED, "findAndModify"):
            self.sent.append((event.command_name, command, event.reply))

    def failed(self, event):
        self._started.pop(event.request_id)


@pytest.fixture
def commands():
    return CommandRecorder()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    with ShardedCluster(tmp_path_factory.mktemp("sharded")) as made:
        keys = dict(re.findall(r'^sh.shardCollection\("\w+\.(\w+)", \{(\w+): "hashed"\}\)$', PAGE, re.MULTILINE))
        assert set(keys) == set(COLLECTIONS)
        for collection, field in keys.items():
            made.shard(collection, field)
        made.index("orders", of_orders.INDEXES)
        made.index("payments", of_payments.INDEXES)
        yield made


@pytest.fixture
def filled(sharded, database, parts):  # noqa: F811
    """The cluster with the documents that the replica set has."""
    for name in COLLECTIONS:
        sharded.empty(name)
        documents = list(database[name].find())
        sharded.run("insert", {"insert": name, "documents": documents, "writeConcern": {"w": "majority"}})
        kept = [sharded.on(shard)[name].count_documents({}) for shard in SHARDS]
        assert sum(kept) == len(documents)
        assert min(kept) > len(documents) // 10
    return sharded


def first_of(value):
    """Returns the value with only the first element of each `$in`."""
    if isinstance(value, dict):
        return {key: some[:1] if key == "$in" else first_of(some) for key, some in value.items()}
    return [first_of(one) for one in value] if isinstance(value, list) else value


def filters(name, command):
    """Returns the filters of a command: one for each of its updates, none for an insert."""
    if name == "insert":
        return []
    if name == "update":
        return [one["q"] for one in command["updates"]]
    if name == "aggregate":
        return [command["pipeline"][0].get("$match", {})]
    return [command.get("filter" if name == "find" else "query", {})]


def routes(sharded, name, command):
    """Yields kind and filter of a command with the shards that it goes to, for one key of several."""
    if name == "insert":
        yield "insert", TARGETED if len(where_to_insert(sharded, command)) == 1 else EVERYWHERE
    for query in filters(name, command):
        _, shards = sharded.run("find", {"find": command[name], "filter": first_of(query)})
        kind = "count" if name == "aggregate" and "$group" in str(command["pipeline"]) else name
        verdict = TARGETED if len(shards) == 1 else EVERYWHERE
        verdict = UNTARGETED if (name, verdict) == ("findAndModify", EVERYWHERE) else verdict
        yield f"{kind} by {', '.join(field for field in query if field != '$or') or 'nothing'}", verdict


def where_to_insert(sharded, command):
    one = {"insert": command["insert"], "documents": [dict(command["documents"][0], _id=new_like(command))]}
    shards = sharded.run("insert", one)[1]
    for shard in SHARDS:
        sharded.on(shard)[command["insert"]].delete_one({"_id": one["documents"][0]["_id"]})
    return shards


def new_like(command):
    return ObjectId() if command["insert"] == "orders" else str(ObjectId())


def repeat(sharded, name, command, reply):
    """Runs the command on the cluster and compares the effect."""
    if name == "findAndModify":
        # This router has no such command; a mongos would have this effect.
        plain = {key: value for key, value in command.items() if key not in ENVELOPE}
        done = [sharded.command_on(shard, plain) for shard in SHARDS]
        found = [one["value"] for one in done if one["value"]]
        assert encoded(found) == encoded([reply["value"]] if reply["value"] else [])
        return
    again, shards = sharded.run(name, command)
    assert shards
    if "cursor" in reply:
        assert encoded(again["cursor"]["firstBatch"]) == encoded(reply["cursor"]["firstBatch"])
    else:
        assert {key: again.get(key) for key in ("n", "nModified")} == {
            key: reply.get(key) for key in ("n", "nModified")
        }
        assert [one["code"] for one in again.get("writeErrors", ())] == [
            one["code"] for one in reply.get("writeErrors", ())
        ]


def encoded(documents):
    """The documents as BSON, sorted: a client may decode times with or without a time zone."""
    return sorted(map(bson.encode, documents))


def two_events_in(outbox):
    """Acknowledges one of two events of a document, so that the filter must name the event."""
    [pending] = outbox.claim(1)
    pending.events = [*pending.events, msgspec.structs.replace(pending.events[0], event_id="another")]
    pending.delivered = ["another"]
    outbox.acknowledge([pending])


def change_status(parts):  # noqa: F811
    def decide(state):
        return OrderTransition(
            type="OrderUpdated", actor="client", order_status="x", payment_status=state.payment_status
        )

    parts.orders.transition(an_update(new_in(parts), "user-7"), decide, lambda change, sequence, at: None)


def apply_events(parts, at_once):  # noqa: F811
    """Applies payment events with the user, of an order that is cached and then of orders that are not."""
    ids = [new_in(parts) for _ in range(at_once)]
    parts.orders.apply_payment_events(
        [msgspec.structs.replace(captured(order_id), user_id="user-7") for order_id in ids[:1]],
        order.apply_payment_event,
    )
    parts.orders._recent.clear()
    parts.orders.apply_payment_events(
        [msgspec.structs.replace(captured(order_id), user_id="user-7") for order_id in ids[1:]],
        order.apply_payment_event,
    )


# Calls that tests/storage/test_indexes.py does not make.
MORE = [
    change_status,
    lambda parts: apply_events(parts, 2),  # noqa: F811
    lambda parts: [look(new_in(parts), "user-7") for look in (parts.reads.view, parts.reads.status)],  # noqa: F811
    lambda parts: parts.reads.timeline(new_in(parts), "user-7", 0),  # noqa: F811
    lambda parts: parts.reads.diagnose(new_in(parts), ""),  # noqa: F811
    lambda parts: parts.payments.diagnostics(str(ObjectId()), ""),  # noqa: F811
    lambda parts: [two_events_in(outbox) for outbox in (parts.orders_outbox, parts.payments_outbox)],  # noqa: F811
]


def table():
    """Returns the table of docs/scaling.md: by collection and command, where it goes."""
    section = PAGE.partition("### Which command goes to which shards")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (orders|payments) \| (.+?) \| (.+?) \|", section, re.MULTILINE)
    return {(collection, what): verdict for collection, what, verdict in rows}


def test_each_command_goes_where_the_table_says_and_does_the_same_there(filled, parts, commands):  # noqa: F811
    calls = [
        use for (owner, _), use in USES.items() if owner in (OrderRepository, OrderQueries, PaymentRepository, Outbox)
    ]
    seen = defaultdict(set)
    for use in [*calls, *MORE]:
        commands.sent.clear()
        use(parts)
        for name, command, reply in commands.sent:
            if command[name] in COLLECTIONS:
                for what, verdict in routes(filled, name, command):
                    seen[command[name], what].add(verdict)
                repeat(filled, name, command, reply)
    assert {sent: verdict for sent, [verdict] in seen.items()} == table()


def test_a_users_pages_that_share_a_command_go_to_that_users_shards_alone(filled, parts, commands):  # noqa: F811
    homes = defaultdict(list)
    for user in (f"user-{number}" for number in range(10)):
        [home] = filled.run("find", {"find": "orders", "filter": {"userId": user}})[1]
        homes[home].append(user)
    commands.sent.clear()
    parts.reads.queries._read_pages([({"userId": user}, 5, NEWEST_FIRST) for user in homes[SHARDS[0]][:3]])
    [(name, command, reply)] = commands.sent
    again, shards = filled.run(name, command)
    assert shards == {SHARDS[0]}
    assert len(again["cursor"]["firstBatch"]) == len(reply["cursor"]["firstBatch"]) == 15


def test_one_key_of_a_user_makes_one_order_in_the_whole_cluster(filled, database):
    order = database.orders.find_one({"userId": "user-1"})
    twice = [{**order, "_id": ObjectId(), "idempotency": {"key": "k", "fingerprint": "f"}} for _ in range(2)]
    reply, shards = filled.run("insert", {"insert": "orders", "documents": twice, "ordered": False})
    assert (reply["n"], [one["code"] for one in reply["writeErrors"]], len(shards)) == (1, [11000], 1)


def test_sharded_by_anything_else_orders_could_not_have_that_index(sharded):
    [unique] = [one for one in of_orders.INDEXES if one.document.get("unique")]
    sharded.shard("by_id", "_id")
    with pytest.raises(OperationFailure, match="shard key pattern") as refused:
        sharded.index("by_id", [unique])
    assert refused.value.code == CANNOT_CREATE_INDEX
