"""What all messages are made of, and the replies and errors that more than one module has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

R = TypeVar("R", bound="Reply")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a request is answered with."""


@dataclass(frozen=True, kw_only=True)
class Request(Generic[R]):
    """Something that exactly one module must do or tell; named in the imperative.

    `repeatable` says that handling the same request twice is the same as once, also where others came in between. One
    that is not is refused when it may have been handled by a process that was lost before it answered.
    """

    owner: ClassVar[str]
    reply: ClassVar[type[Reply]]
    repeatable: ClassVar[bool] = True

    request_id: str
    traceparent: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to one order; named in the past tense.

    `sequence` rises within what the sending module has to say of that order; a receiver ignores what it has seen.
    `required_consumers` are modules that must take it in, whether they run at the moment or not; others may listen as well.
    """

    required_consumers: ClassVar[tuple[str, ...]] = ()

    event_id: str
    order_id: str
    sequence: int
    request_id: str
    at: int
    traceparent: str = ""


@dataclass(frozen=True, kw_only=True)
class Backlog(Reply):
    """Work that is due and not begun: how much (counted up to the limit), and the oldest's age in milliseconds.

    `unfinished` is all work that is due, retried later, parked or a dead letter; `overloaded` tells whether that is too
    much to accept more.
    """

    due: int
    oldest_ms: int
    overloaded: bool
    unfinished: int = 0


@dataclass(frozen=True, kw_only=True)
class Queue(Reply):
    """Work that is open, each counted up to a limit: how much in all, due and not begun, repeated later, and why not.

    `parked` waits for an operator, `dead` could not be delivered.
    """

    open: int
    due: int
    retrying: int
    parked: int
    dead: int


@dataclass(frozen=True, kw_only=True)
class OrderIds(Reply):
    """Ids of some orders; `more` where there are others."""

    order_ids: tuple[str, ...]
    more: bool


class ApplicationError(Exception):
    """An answer that says no: `code` names the kind, `detail` is one sentence, `members` are further facts."""

    code: ClassVar[str] = "refused"

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
