"""Cursors of lists: where a page ended, sealed, and good for the same user and the same filter alone."""

import json
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256

from itsdangerous import BadData, URLSafeSerializer

from app.contracts.base import ApplicationError

LONGEST = 512


class InvalidCursor(ApplicationError):
    """The cursor is not one of ours, or not for this list."""

    code = "invalid_cursor"


class Cursors:
    """Seals and opens cursors; `secret` is asked for the key when first needed, and raises where it cannot be told."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = secret

    def seal(self, user_id: str, order_status: str, created_at: str, order_id: str) -> str:
        """The cursor to what comes after this order; an empty `user_id` stands for all users."""
        return str(self._sealer.dumps([created_at, order_id], _list_of(user_id, order_status)))

    def open(self, user_id: str, order_status: str, cursor: str) -> tuple[str, str]:
        """When the order was made that the page ended with, and its id. Raises InvalidCursor."""
        try:
            created_at, order_id = self._sealer.loads(cursor[:LONGEST], _list_of(user_id, order_status))
        except BadData:
            raise InvalidCursor("this cursor does not belong to this list; begin without one") from None
        return created_at, order_id

    @cached_property
    def _sealer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self._secret(), signer_kwargs={"digest_method": sha256})


def _list_of(user_id: str, order_status: str) -> str:
    return json.dumps(["orders", user_id, order_status])
