"""Answers what is asked about orders. Concurrent reads share one command."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from bson import ObjectId
from bson.codec_options import CodecOptions

from app.contracts.base import Backlog, DeadLetterList, OrderIds, QueueCounts, WaitsFor, rfc3339
from app.contracts.orders import (
    AwaitOrder,
    AwaitTimeline,
    CheckOrderBacklog,
    CheckOrderQueue,
    CheckOrderStatus,
    DescribeStates,
    ExplainOrder,
    FindOrder,
    FindOrders,
    FindRefund,
    ListAllOrders,
    ListOrderDeadLetters,
    ListOrders,
    ListRefunds,
    ListStuckOrders,
    OrderExplanation,
    OrderList,
    OrderPage,
    OrderStatusView,
    OrderView,
    PaymentStatusView,
    RefundList,
    RefundNotFound,
    RefundView,
    StateMachine,
    Timeline,
    TransitionView,
)
from app.messaging.dead_letters import list_dead_letters
from app.messaging.handlers import handles
from app.messaging.outbox import Outbox
from app.orders import order
from app.orders.documents import (
    DIAGNOSTICS,
    NEWEST_FIRST,
    NOT_LISTED,
    OLDEST_FIRST,
    ORDER_ID,
    REFUND_FAILED,
    SELECTED_BY_INDEX,
    STATUS,
    TIMELINE,
    VIEW,
    VIEW_WITH_ITEMS,
    WHOLE_VIEW,
    OrderDiagnostics,
    diagnostics_of,
    filter_of,
    filter_of_many,
    having_metadata,
    key_of,
    not_found,
    timeline_entry_of,
    view_of,
    view_with_items_of,
    whole_view_of,
)
from app.orders.notifier import OrderChangeNotifier
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Documents, Store
from app.system import SYSTEM, System

# How many pages one command reads at most.
PAGES = 16
# How many of the newest orders a list of one status over all users searches: there is no index for it.
STATUS_SCAN_LIMIT = 10_000

Sorting = list[tuple[str, int]]
# A filter, how many orders, and their sorting.
Page = tuple[Document, int, Sorting]
# The key of an order and its user; the user is empty for any.
Key = tuple[ObjectId, str]


class OrderQueries:
    """Reads orders for other modules. `deadline` is in seconds; `backlog_limit` bounds what is counted."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        changes: Outbox,
        notifier: OrderChangeNotifier,
        deadline: float,
        backlog_limit: int,
        system: System = SYSTEM,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._changes = changes
        self._notifier = notifier
        self._deadline = deadline
        self._backlog_limit = backlog_limit
        # Times without a zone take half as long to read; all of them are in UTC.
        self._documents: Documents = store.collection.with_options(codec_options=CodecOptions(tz_aware=False))
        self._views: GroupCommit[Key, Document | None] = GroupCommit(
            "orders", partial(self._read, WHOLE_VIEW), system=system
        )
        self._statuses: GroupCommit[Key, Document | None] = GroupCommit(
            "statuses", partial(self._read, STATUS), system=system
        )
        self._timelines: GroupCommit[Key, Document | None] = GroupCommit(
            "timelines", partial(self._read, TIMELINE), system=system
        )
        self._pages: GroupCommit[Page, list[Document]] = GroupCommit(
            "pages", self._read_pages, limit=PAGES, system=system
        )

    @handles(FindOrder)
    def find_order(self, request: FindOrder) -> OrderView:
        """Raises NotFound."""
        return whole_view_of(self._find(self._views, request), request.with_next_action)

    @handles(ListRefunds)
    def list_refunds(self, request: ListRefunds | FindRefund) -> RefundList:
        """Raises NotFound."""
        view = whole_view_of(self._find(self._views, request))
        return RefundList(order_id=view.id, refunds=view.refunds or ())

    @handles(FindRefund)
    def find_refund(self, request: FindRefund) -> RefundView:
        """Raises NotFound for the order, RefundNotFound."""
        for refund in self.list_refunds(request).refunds:
            if refund.id == request.refund_id:
                return refund
        raise RefundNotFound("the order has no refund with this id")

    @handles(CheckOrderStatus)
    def check_status(self, request: CheckOrderStatus | AwaitOrder | AwaitTimeline) -> OrderStatusView:
        """Raises NotFound."""
        found = self._find(self._statuses, request)
        return OrderStatusView(
            order_id=request.order_id,
            order_status=found["orderStatus"],
            payment_status=found["paymentStatus"],
            version=found["version"],
        )

    @handles(AwaitOrder)
    def await_order(self, request: AwaitOrder) -> OrderStatusView:
        """The status once the order has settled, or waits if that counts, or when the time is over. Raises NotFound."""

        def done(status: OrderStatusView) -> bool:
            waiting = request.or_waiting and status.payment_status in order.WAITING
            return waiting or status.order_status != order.PROCESSING

        return self._notifier.wait_until(
            request.order_id, lambda: self.check_status(request), done, request.wait_ms / 1000
        )

    @handles(AwaitTimeline)
    def await_timeline(self, request: AwaitTimeline) -> Timeline:
        """The entries after a sequence, once there are any or when the time is over. Raises NotFound."""
        if request.wait_ms:
            self._notifier.wait_until(
                request.order_id,
                lambda: self.check_status(request),
                lambda status: status.version > request.after,
                request.wait_ms / 1000,
            )
        found = self._find(self._timelines, request)
        entries = (entry for entry in found["events"] if entry["sequence"] > request.after)
        return Timeline(
            order_id=request.order_id,
            version=found["version"],
            entries=tuple(timeline_entry_of(request.order_id, entry, found) for entry in entries),
            ending=self._notifier.stopping,
        )

    @handles(ListOrders)
    def list_by_user(self, request: ListOrders) -> OrderList:
        """A page of a user's orders."""
        matching: Document = {"userId": request.user_id, **_selection(request), **_place_in_time(request)}
        sorting = OLDEST_FIRST if request.oldest_first else NEWEST_FIRST
        found = self._pages((matching, request.limit + 1, sorting), self._deadline)
        views = tuple(view_of(doc) for doc in found[: request.limit])
        return OrderList(orders=views, more=len(found) > request.limit)

    @handles(ListAllOrders)
    def list_all(self, request: ListAllOrders) -> OrderPage:
        """A page of all users' orders; what no index selects is searched among STATUS_SCAN_LIMIT orders only."""
        limit = request.limit
        following, searched, sorting = _plan(request)
        with self._store.with_deadline():
            if not searched:
                found = list(self._documents.find(following, VIEW).sort(sorting).limit(limit + 1))
                return _page_of(found, limit)
            found = list(self._documents.aggregate(_status_scan(following, searched, sorting, limit + 1)))
            if len(found) > limit:
                return _page_of(found, limit)
            scanned = self._documents.find(following, {"createdAt": 1}).sort(sorting)
            last = next(scanned.skip(STATUS_SCAN_LIMIT - 1).limit(1), None)
        views = tuple(view_of(doc) for doc in found)
        if last is None:
            return OrderPage(orders=views, last_id="")
        return OrderPage(orders=views, last_id=str(last["_id"]), last_at=rfc3339(last["createdAt"]))

    @handles(FindOrders)
    def find_many(self, request: FindOrders) -> OrderList:
        """Those of some orders that exist, newest first."""
        keys = [(ObjectId(order_id), "") for order_id in request.order_ids if ORDER_ID.fullmatch(order_id)]
        projection = VIEW_WITH_ITEMS if request.with_items else VIEW
        found = [doc for doc in self._read(projection, keys) if isinstance(doc, dict)]
        found.sort(key=lambda doc: doc["_id"], reverse=True)
        return OrderList(orders=tuple(view_with_items_of(doc) for doc in found), more=False)

    @handles(ListStuckOrders)
    def list_stuck(self, request: ListStuckOrders) -> OrderIds:
        """Orders whose events wait too long, or are dead letters."""
        found = self._outbox.find_stuck(request.dead, request.overdue_ms / 1000, request.limit + 1)
        return OrderIds(order_ids=tuple(found[: request.limit]), more=len(found) > request.limit)

    @handles(ExplainOrder)
    def explain(self, request: ExplainOrder) -> OrderExplanation:
        """Why an order is in its state, and what a client may do. Raises NotFound."""
        found = self.diagnose(request.order_id, request.on_behalf_of)
        delayed_by: WaitsFor = "an operator" if found.dead_letter else "the relay" if found.undelivered else ""
        sentence = order.explanation(found.order_status, found.payment_status, found.last, found.capture_unknown)
        if delayed_by and found.retried and not found.dead_letter:
            sentence += "; payments has not taken it in so far and is tried again"
        return OrderExplanation(
            order_id=request.order_id,
            order_status=found.order_status,
            payment_status=found.payment_status,
            because=found.last,
            sentence=sentence,
            waits_for=delayed_by,
            allowed=order.allowed(found.order_status),
            actions=order.actions(found.order_status, found.payment_status, found.capture_requested),
            on_cancel=order.on_cancel(found.order_status, found.payment_status),
        )

    @handles(DescribeStates)
    def describe_states(self, _request: DescribeStates) -> StateMachine:
        """The tables of transitions and of payment statuses."""
        transitions = (
            TransitionView(source=rule.source, by=rule.by, target=rule.target, money=rule.money)
            for rule in order.TRANSITIONS
        )
        payment_statuses = (
            PaymentStatusView(status=rule.status, meaning=rule.meaning, actions=rule.actions, on_cancel=rule.on_cancel)
            for rule in order.PAYMENT_STATUSES
        )
        return StateMachine(transitions=tuple(transitions), payment_statuses=tuple(payment_statuses))

    @handles(CheckOrderBacklog)
    def check_backlog(self, _request: CheckOrderBacklog) -> Backlog:
        """How far the delivery of events is behind."""
        due, oldest_ms = self._outbox.backlog(self._backlog_limit)
        unfinished = self._outbox.unfinished(self._backlog_limit)
        overloaded = unfinished >= self._backlog_limit
        return Backlog(due=due, oldest_ms=oldest_ms, overloaded=overloaded, unfinished=unfinished)

    @handles(CheckOrderQueue)
    def check_queue(self, _request: CheckOrderQueue) -> QueueCounts:
        """Which events are not delivered yet."""
        counts = zip(self._outbox.queue(self._backlog_limit), self._changes.queue(self._backlog_limit), strict=True)
        waiting, due, retrying, dead = map(sum, counts)
        return QueueCounts(open=waiting, due=due, retrying=retrying, parked=0, dead=dead)

    @handles(ListOrderDeadLetters)
    def list_dead_letters(self, request: ListOrderDeadLetters) -> DeadLetterList:
        """Events of orders that could not be delivered."""
        return list_dead_letters((self._outbox, self._changes), "orders", request.limit)

    def diagnose(self, order_id: str, on_behalf_of: str) -> OrderDiagnostics:
        """An order's state and what delays its events. Raises NotFound."""
        with self._store.with_deadline():
            found = self._documents.find_one(filter_of(order_id, on_behalf_of), DIAGNOSTICS)
        if found is None:
            raise not_found()
        return diagnostics_of(order_id, found)

    def _find(
        self,
        reads: GroupCommit[Key, Document | None],
        request: FindOrder | ListRefunds | FindRefund | CheckOrderStatus | AwaitOrder | AwaitTimeline,
    ) -> Document:
        found = reads((key_of(request.order_id), request.on_behalf_of), self._deadline)
        # One command may read an order for several callers, so its user is compared here too.
        if found is None or (request.on_behalf_of and found["userId"] != request.on_behalf_of):
            raise not_found()
        return found

    def _read(self, projection: Document, keys: list[Key]) -> list[Document | Exception | None]:
        with self._store.with_deadline():
            found = {doc["_id"]: doc for doc in self._documents.find(filter_of_many(keys), projection)}
        return [found.get(key) for key, _ in keys]

    def _read_pages(self, pages: list[Page]) -> Sequence[list[Document]]:
        if len(pages) == 1:
            return [self._read_page(*pages[0])]
        first, *others = (_page_stages(number, *page) for number, page in enumerate(pages))
        joined = [{"$unionWith": {"coll": self._documents.name, "pipeline": stages}} for stages in others]
        found: list[list[Document]] = [[] for _ in pages]
        with self._store.with_deadline():
            size = 1 + sum(limit for _, limit, _ in pages)
            for doc in self._documents.aggregate([*first, *joined], batchSize=size):
                found[doc["page"]].append(doc)
        return found

    def _read_page(self, matching: Document, limit: int, sorting: Sorting) -> list[Document]:
        with self._store.with_deadline():
            return list(self._documents.find(matching, VIEW).sort(sorting).limit(limit))


def _page_stages(number: int, matching: Document, limit: int, sorting: Sorting) -> list[Document]:
    """The pipeline that reads one page; its documents carry the number of the page."""
    members: list[Document] = [{"$project": NOT_LISTED}, {"$addFields": {"page": {"$literal": number}}}]
    return [{"$match": matching}, {"$sort": dict(sorting)}, {"$limit": limit}, *members]


def _place_in_time(request: ListOrders | ListAllOrders) -> Document:
    """The conditions on the time of creation: its bounds, and the place where a page begins."""
    bounds = {"$gte": request.created_from, "$lt": request.created_to}
    created: Document = {
        operator: datetime.fromtimestamp(milliseconds / 1000, UTC)
        for operator, milliseconds in bounds.items()
        if milliseconds
    }
    if not request.before_id:
        return {"createdAt": created} if created else {}
    at, beyond = datetime.fromisoformat(request.before_at).astimezone(UTC), "$gt" if request.oldest_first else "$lt"
    # The first condition is for the index; the second excludes orders of the same millisecond that were listed.
    return {
        "createdAt": {**created, f"{beyond}e": max(at, created.get(f"{beyond}e", at))},
        "$or": [{"createdAt": {beyond: at}}, {"_id": {beyond: key_of(request.before_id)}}],
    }


def _place_by_id(request: ListAllOrders) -> Document:
    """The condition on the id: where a page begins."""
    beyond = "$gt" if request.oldest_first else "$lt"
    return {"_id": {beyond: key_of(request.before_id)}} if request.before_id else {}


def _plan(request: ListAllOrders) -> tuple[Document, Document, Sorting]:
    """What an index selects for a list of all users, what is searched among that, and the sorting, which the index has too."""
    indexed, searched = _split_selection(_selection(request))
    by_time = request.created_from or request.created_to
    if by_time and not indexed:
        return _place_in_time(request), searched, OLDEST_FIRST if request.oldest_first else NEWEST_FIRST
    if by_time:
        bounds = msgspec.structs.replace(request, before_id="")
        searched = {**searched, **_place_in_time(bounds)}
    return {**_place_by_id(request), **indexed}, searched, [("_id", 1 if request.oldest_first else -1)]


def _selection(request: ListOrders | ListAllOrders) -> Document:
    """The conditions on the orders of a list, the one that selects the fewest first."""
    statuses = {"orderStatus": request.order_status, "paymentStatus": request.payment_status}
    return {
        **(having_metadata(request.metadata) if request.metadata else {}),
        **{name: status for name, status in statuses.items() if status},
        **(REFUND_FAILED if request.refund_failed else {}),
    }


def _split_selection(selection: Document) -> tuple[Document, Document]:
    """The condition that an index over all users selects by, and the others."""
    indexed = {
        name: value
        for name, value in selection.items()
        if name == "metadata" or name in REFUND_FAILED or value in SELECTED_BY_INDEX
    }
    first = dict(list(indexed.items())[:1])
    return first, {name: value for name, value in selection.items() if name not in first}


def _status_scan(following: Document, searched: Document, sorting: Sorting, limit: int) -> list[Document]:
    return [
        {"$match": following},
        {"$sort": dict(sorting)},
        {"$limit": STATUS_SCAN_LIMIT},
        {"$match": searched},
        {"$limit": limit},
        {"$project": VIEW},
    ]


def _page_of(found: list[Document], limit: int) -> OrderPage:
    views = tuple(view_of(doc) for doc in found[:limit])
    if len(found) <= limit:
        return OrderPage(orders=views, last_id="")
    return OrderPage(orders=views, last_id=views[-1].id, last_at=views[-1].created_at)
