"""The wire format: JSON bodies of requests, replies, events and receipts."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from app.contracts.base import ApplicationError, Event, Request, Unavailable, subclasses_by_name

T = TypeVar("T")

REQUEST_TYPES: Mapping[str, type[Request[Any]]] = subclasses_by_name(Request)
EVENT_TYPES: Mapping[str, type[Event]] = subclasses_by_name(Event)
ERROR_TYPES: Mapping[str, type[ApplicationError]] = subclasses_by_name(ApplicationError)

# An integer of any size would not fit into a float of seconds.
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
# Correlation key, name of the request, time to answer it, the request.
WireRequest = tuple[str, str, Milliseconds, msgspec.Raw]
# Correlation key, name of the error or empty for none, the reply or the error.
WireReply = tuple[str, str, msgspec.Raw]


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an ApplicationError; the name of its class is sent beside it."""

    detail: str
    members: dict[str, Any] = {}


REQUEST_BATCH = msgspec.json.Decoder(list[WireRequest])
REPLY_BATCH = msgspec.json.Decoder(list[WireReply])
ERROR = msgspec.json.Decoder(WireError)
# Module, name of the error's class or empty for none, its text.
RECEIPT = msgspec.json.Decoder(tuple[str, str, str])
REQUESTS = {name: msgspec.json.Decoder(kind) for name, kind in REQUEST_TYPES.items()}
REPLIES = {name: msgspec.json.Decoder(kind.reply) for name, kind in REQUEST_TYPES.items()}
EVENTS = {name: msgspec.json.Decoder(tuple[kind, ...]) for name, kind in EVENT_TYPES.items()}  # type: ignore[valid-type]


class MalformedMessage(Exception):
    """A message cannot be decoded; the text says why."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes | str | msgspec.Raw) -> T:
    """Decode a message. Raises MalformedMessage and nothing else."""
    try:
        return decoder.decode(body)
    except Exception as exc:
        # Not only MsgspecError: RecursionError for deep nesting, UnicodeError for invalid text.
        raise MalformedMessage(f"{type(exc).__name__}: {str(exc)[:200]}") from exc


def encode_error(error: ApplicationError) -> tuple[str, bytes]:
    """The name of the error's class, and its data as JSON."""
    return type(error).__name__, msgspec.json.encode(WireError(detail=error.detail, members=error.members))


def decode_error(name: str, payload: bytes | msgspec.Raw) -> ApplicationError:
    """The error that was sent; Unavailable if its class is unknown. Raises MalformedMessage."""
    data = decode(ERROR, payload)
    try:
        error: ApplicationError = ERROR_TYPES.get(name, Unavailable)(data.detail, **data.members)
    except TypeError as exc:
        raise MalformedMessage(f"members of an error: {exc}") from exc
    return error
