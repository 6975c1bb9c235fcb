"""The caller of a request, and what it may see and do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import msgspec
from flask import g

from app.contracts.base import ApplicationError, NotFound
from app.contracts.orders import OrderView

READ = "orders:read"
WRITE = "orders:write"
FULFIL = "orders:fulfil"
REFUND = "orders:refund"
ADMIN = "orders:admin"
WEBHOOKS = "webhooks:manage"
View = TypeVar("View", bound=Callable[..., Any])


class WrongUser(ApplicationError):
    """A caller without the admin scope may place orders for itself only."""

    code = "wrong_user"


class RequestOrigin(TypedDict):
    """The members by which a request to the bus names the HTTP request and its caller."""

    request_id: str
    on_behalf_of: str


class ChangeOrigin(RequestOrigin):
    """The members of a request that changes an order: it names its caller also where that one sees all orders."""

    caller: str


@dataclass(frozen=True)
class Caller:
    """A user and the scopes of its token; `user_id` is empty if authentication is off."""

    user_id: str
    scopes: frozenset[str]

    def has_scope(self, scope: str) -> bool:
        """Whether the caller has this scope or the admin scope."""
        return bool(self.scopes & {scope, ADMIN})

    @property
    def on_behalf_of(self) -> str:
        """The user whose orders the caller may see; empty for the orders of all users."""
        return "" if ADMIN in self.scopes else self.user_id

    def may_act_for(self, user_id: str) -> bool:
        """Whether the caller may see and place orders of this user."""
        return self.on_behalf_of in ("", user_id)


SCOPES = frozenset({READ, WRITE, FULFIL, REFUND, ADMIN, WEBHOOKS})
ANONYMOUS = Caller(user_id="", scopes=SCOPES)


def caller() -> Caller:
    """The caller of the current request."""
    current: Caller = g.get("caller", ANONYMOUS)
    return current


def request_origin() -> RequestOrigin:
    """Members for a request to the bus that is made for the current caller: `FindOrder(order_id=..., **request_origin())`."""
    return {"request_id": g.request_id, "on_behalf_of": caller().on_behalf_of}


def change_origin() -> ChangeOrigin:
    """As `request_origin`, for a request that changes an order."""
    return {**request_origin(), "caller": caller().user_id}


def check_may_place_for(user_id: str) -> None:
    """Raise WrongUser unless the caller may place an order for `user_id`."""
    if not caller().may_act_for(user_id):
        raise WrongUser("this token places orders for its own user only")


def check_may_see(user_id: str) -> None:
    """Raise NotFound unless the caller may see `user_id`'s orders: Forbidden would reveal which users exist."""
    if not caller().may_act_for(user_id):
        raise NotFound("there is no such user")


def own_view(order: OrderView) -> OrderView:
    """The order as its caller may see it: what the customer must do is for the order's own user, and for no administrator."""
    if order.next_action and caller().user_id not in ("", order.user_id):
        return msgspec.structs.replace(order, next_action=None)
    return order


def requires_scope(scope: str | None) -> Callable[[View], View]:
    """Declare the scope that an undocumented view needs; None for a public view."""

    def declare(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return declare
