"""The kinds of messages, and the replies and errors that more than one module uses."""

from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar, get_args

import msgspec

R = TypeVar("R", bound="Reply")


class Message(msgspec.Struct, frozen=True):
    """Data that modules exchange; each message survives JSON in both directions.

    Members are text, integers, booleans and tuples of such. Times are integers in milliseconds since 1970, or RFC 3339 text
    in UTC. Money is an integer in minor units of an ISO 4217 currency, beside its code. The id of an order has 24
    hexadecimal digits. `traceparent` is the W3C trace that a message belongs to, empty for none.
    """


class Money(Message, frozen=True):
    """An amount in minor units of its currency, an ISO 4217 code: `Money(9900, "MYR")` is RM 99."""

    value: int
    currency: str


class Reply(Message, frozen=True, kw_only=True):
    """The answer to a request."""


class Request(Message, Generic[R], frozen=True, kw_only=True):
    """A message that exactly one module handles, named in the imperative: `class FindOrder(Request[OrderView])`.

    `owner` is the module that handles it, taken from the file that declares it. `repeatable` says that handling the same request
    twice is as good as once, even if other requests come in between. A request that is not repeatable fails if a process that
    may have handled it ended before it answered.

    `on_behalf_of`, where a request has it, is the user whose orders alone are found; empty for all users.
    `expected_versions` are the versions that the order may have; empty for any.
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


class Event(Message, frozen=True, kw_only=True):
    """Something that happened to one order, named in the past tense.

    `sequence` rises with each event of an order that one module publishes; a consumer ignores what it has applied already.
    `required_consumers` are the modules that must take it in, even if they are down at the moment; other modules may
    subscribe too. `at` is in milliseconds since 1970.
    """

    required_consumers: ClassVar[tuple[str, ...]] = ()

    event_id: str
    order_id: str
    sequence: int
    request_id: str
    at: int
    traceparent: str = ""


class Backlog(Reply, frozen=True, kw_only=True):
    """Work that is due and not begun: how much (counted up to the limit), and the oldest's age in milliseconds.

    `unfinished` is all work that is due, retried later, parked or a dead letter; `overloaded` tells whether that is too
    much to accept more.
    """

    due: int
    oldest_ms: int
    overloaded: bool
    unfinished: int = 0


class Queue(Reply, frozen=True, kw_only=True):
    """Work that is open, each counted up to a limit: how much in all, due and not begun, repeated later, and why not.

    `parked` waits for an operator, `dead` could not be delivered.
    """

    open: int
    due: int
    retrying: int
    parked: int
    dead: int


class OrderIds(Reply, frozen=True, kw_only=True):
    """Ids of some orders; `more` where there are others."""

    order_ids: tuple[str, ...]
    more: bool


class ApplicationError(Exception):
    """A declared error of a request: `code` names its kind, `detail` is one sentence, `members` are further facts."""

    code: ClassVar[str] = "application_error"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class NotFound(ApplicationError):
    """There is no such order."""

    code = "order_not_found"


class Conflict(ApplicationError):
    """Others changed the order again and again meanwhile."""

    code = "conflict"


class Overloaded(ApplicationError):
    """More is waiting than can be worked off soon; member `retry_after` in seconds."""

    code = "overloaded"


class Unavailable(ApplicationError):
    """Nobody can answer now; member `retry_after` in seconds says when it may be worth another try."""

    code = "unavailable"


def concrete(kind: type[Any]) -> Iterator[type[Any]]:
    """Every message class below `kind` that is sent as itself."""
    for child in kind.__subclasses__():
        yield from [*concrete(child)] or [child]


def by_name(kind: type[Any]) -> dict[str, type[Any]]:
    """The same, each by what it is called."""
    return {child.__name__: child for child in concrete(kind)}
