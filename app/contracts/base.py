"""The base classes of messages, and the replies and errors that several modules share."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import msgspec

R = TypeVar("R", bound="Reply")

# Who or what an order or its payment waits for; empty for nothing.
WaitsFor = Literal["", "the relay", "the provider", "the customer", "a capture", "the payer's bank", "an operator"]


# After how many seconds open work counts as stuck, wherever that is asked.
STUCK_SECONDS = 60


class Message(msgspec.Struct, frozen=True):
    """Data that modules exchange. Every message can be encoded to JSON and decoded again without loss.

    Fields are text, integers, booleans, tuples of these, and maps of text to text. Times are integers in milliseconds since 1970, or RFC 3339
    text in UTC. Money is an integer in minor units of an ISO 4217 currency, with its code in another field. An order id
    has 24 hexadecimal digits. `traceparent` is the W3C trace context of a message, empty for none.

    `withheld` are fields whose values are not for readers of the log.
    """

    withheld: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.log_fields().items())})"

    def log_fields(self) -> dict[str, Any]:
        """The fields by name, as the log may show them."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: "…" if value and name in self.withheld else value for name, value in fields.items()}


def rfc3339(at: datetime, timespec: str = "milliseconds") -> str:
    """A time in UTC, with or without its time zone, as text."""
    return f"{at.isoformat(timespec=timespec).removesuffix('+00:00')}Z"


# 31 December 9999, 14 hours before its end anywhere: what a time zone away is still a date.
LAST_MILLISECOND = 253_402_214_400_000


def milliseconds(at: datetime) -> int:
    """A time with its zone in milliseconds since 1970; what is earlier, or too late to be stored, becomes the nearest that is not."""
    return min(max(0, int(at.timestamp() * 1000)), LAST_MILLISECOND)


def milliseconds_of(text: str) -> int:
    """A time in RFC 3339 with its offset, in `milliseconds`. Raises ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without an offset")
    return milliseconds(at)


class Money(Message, frozen=True):
    """An amount in minor units of its currency, an ISO 4217 code: `Money(9900, "MYR")` is RM 99."""

    value: int
    currency: str


class Reply(Message, frozen=True, kw_only=True):
    """The answer to a request."""


class Request(Message, Generic[R], frozen=True, kw_only=True):
    """A message that exactly one module handles, named in the imperative: `class FindOrder(Request[OrderView])`.

    `owner` is the module that handles it: the name of the file that declares it. `repeatable` is true if handling the
    same request twice has the same effect as handling it once, even with other requests in between. The broker may
    deliver a request again after its process died; the bus refuses it then if it is not repeatable.

    `request_id` is the id of the HTTP request that caused it. Fields that many requests have: `on_behalf_of` is the user whose
    orders the request may see, empty for all users; `caller` is the user who sent it, empty where authentication is off;
    `expected_versions` are the versions that the order may have, empty for any.
    """

    owner: ClassVar[str]
    reply: ClassVar[type[Reply]]
    repeatable: ClassVar[bool] = True

    request_id: str
    traceparent: str = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.owner = cls.__module__.rpartition(".")[2]
        for base in getattr(cls, "__orig_bases__", ()):
            cls.reply = next(iter(get_args(base)), Reply)


class Event(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to one order, named in the past tense.

    `sequence` increases with each event that one module publishes about an order; a consumer ignores events that it has
    applied already. `required_consumers` are the modules that must handle the event, also if they are down when it is
    published; other modules may subscribe too. `at` is in milliseconds since 1970. `request_id` is the HTTP request that caused
    the event, also by way of other events; empty if none did.
    """

    required_consumers: ClassVar[tuple[str, ...]] = ()

    event_id: str
    order_id: str
    sequence: int
    request_id: str
    at: int
    traceparent: str = ""


class Backlog(Reply, frozen=True, kw_only=True):
    """Work that is due and not begun: the number of items, counted up to a limit, and the age of the oldest in ms.

    `unfinished` is the number of items that are due, wait for a retry, are parked or are dead letters. `overloaded` is
    true if that is too much to accept new work.
    """

    due: int
    oldest_ms: int
    overloaded: bool
    unfinished: int = 0


class QueueCounts(Reply, frozen=True, kw_only=True):
    """Numbers of work items by state, each counted up to a limit.

    `open` counts all open items, `due` those that are due and not begun, `retrying` those that wait for a retry,
    `parked` those that wait for an operator, `dead` the dead letters.
    """

    open: int
    due: int
    retrying: int
    parked: int
    dead: int


class OrderIds(Reply, frozen=True, kw_only=True):
    """Order ids; `more` is true if there are further ones."""

    order_ids: tuple[str, ...]
    more: bool


class PersonalDataErased(Reply, frozen=True, kw_only=True):
    """A module has erased what it had of a user: `documents` says in how many."""

    documents: int


class DeadLetter(Reply, frozen=True, kw_only=True, rename="camel"):
    """An event of `module` that could not be delivered since `at`, RFC 3339 in UTC; `amount` is the order's total.

    `failures` counts the failed deliveries, and `reason` is why the last one failed.
    """

    module: str
    order_id: str
    user_id: str
    amount: Money
    event: str
    at: str
    age_seconds: int
    failures: int
    reason: str


class DeadLetterList(Reply, frozen=True, kw_only=True):
    """Dead letters of one module, oldest first; `more` if there are further ones."""

    dead_letters: tuple[DeadLetter, ...]
    more: bool


class DeadLetterRequeued(Reply, frozen=True, kw_only=True):
    """`requeued` is false where the order has no dead letter in this module."""

    requeued: bool


class ApplicationError(Exception):
    """A declared error of a request: `code` identifies its kind, `detail` is one sentence, `members` are further data."""

    code: ClassVar[str] = "application_error"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class NotFound(ApplicationError):
    """The order does not exist, or the caller may not see it."""

    code = "order_not_found"


class Conflict(ApplicationError):
    """Concurrent changes of the order won every compare-and-set."""

    code = "conflict"


class NotPossible(ApplicationError):
    """What an operator asks for cannot be done; the detail says why."""

    code = "not_possible"


class Overloaded(ApplicationError):
    """Too much work is unfinished to accept more; member `retry_after` in seconds."""

    code = "overloaded"


class Unavailable(ApplicationError):
    """The request cannot be handled now; member `retry_after`, where present, is in seconds."""

    code = "unavailable"


def analyse(*kinds: type[Any]) -> None:
    """Let msgspec analyse types while one thread runs.

    It does so at the first use of a type, and keeps what it has so far: a second thread that uses the type meanwhile crashes
    the process.
    """
    for kind in kinds:
        msgspec.json.Decoder(kind)


def concrete_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """Yield the subclasses of `kind`, at any depth, that have no subclasses themselves."""
    for child in kind.__subclasses__():
        yield from [*concrete_subclasses(child)] or [child]


def subclasses_by_name(kind: type[Any]) -> dict[str, type[Any]]:
    """The concrete subclasses of `kind` by class name."""
    return {child.__name__: child for child in concrete_subclasses(kind)}
