"""Registration of a service's methods as handlers of messages."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from app.contracts.base import Event, Message, Request
from app.messaging.bus import HandlerRegistry

Method = TypeVar("Method", bound=Callable[..., Any])


def handles(*messages: type[Message]) -> Callable[[Method], Method]:
    """Mark a method as the handler of these requests, or of batches of these events."""

    def mark(method: Method) -> Method:
        method.handles = messages  # type: ignore[attr-defined]
        return method

    return mark


def register_handlers(registry: HandlerRegistry, module: str, *services: object) -> None:
    """Register every method that `handles` marks, on behalf of `module`."""
    for service in services:
        for message, handler in _handlers(service):
            if issubclass(message, Request):
                registry.register_handler(message, handler)
            elif issubclass(message, Event):
                registry.subscribe(module, message, handler)


def _handlers(service: object) -> Iterator[tuple[type[Message], Callable[[Any], Any]]]:
    for name, method in vars(type(service)).items():
        for message in getattr(method, "handles", ()):
            yield message, getattr(service, name)
