"""Who calls, and what they may see and do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import g

from app.contracts.base import ApplicationError, NotFound

READ = "orders:read"
WRITE = "orders:write"
FULFIL = "orders:fulfil"
REFUND = "orders:refund"
ADMIN = "orders:admin"
View = TypeVar("View", bound=Callable[..., Any])


class WrongUser(ApplicationError):
    """An order is placed for oneself, unless one may act for all."""

    code = "wrong_user"


@dataclass(frozen=True)
class Caller:
    """A user, and what their token allows; an empty `user_id` where nobody is asked who they are."""

    user_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the caller has this scope, or may do everything."""
        return bool(self.scopes & {scope, ADMIN})

    @property
    def owner(self) -> str:
        """Whose orders the caller may see: their own, or (empty) everyone's."""
        return "" if ADMIN in self.scopes else self.user_id


SCOPES = frozenset({READ, WRITE, FULFIL, REFUND, ADMIN})
ANYONE = Caller(user_id="", scopes=SCOPES)


def caller() -> Caller:
    """Who makes the present request."""
    found: Caller = g.get("caller", ANYONE)
    return found


def check_acts_for(user_id: str) -> None:
    """Let the caller place an order for `user_id`, or raise WrongUser."""
    if caller().owner not in ("", user_id):
        raise WrongUser("this token places orders for its own user only")


def check_sees(user_id: str) -> None:
    """Let the caller see what `user_id` has, or raise NotFound: who else there is, is nobody's business."""
    if caller().owner not in ("", user_id):
        raise NotFound("there is no such user")


def open_to(scope: str | None) -> Callable[[View], View]:
    """Say of a view that is not documented what its callers must have, None where anybody may call."""

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return mark
