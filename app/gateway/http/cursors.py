"""Cursors of lists: the position where a page ends, signed, valid for the same user and the same filter only."""

import json
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256

from itsdangerous import BadData, URLSafeSerializer

from app.contracts.base import ApplicationError

MAX_LENGTH = 512


class InvalidCursor(ApplicationError):
    """The cursor was not made by this server, or not for this list."""

    code = "invalid_cursor"


class CursorCodec:
    """Encodes and decodes cursors. `secret` returns the key when it is first needed, and raises if the key cannot be read."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = secret

    def encode(self, user_id: str, order_status: str, created_at: str, order_id: str) -> str:
        """The cursor to the orders after this one; an empty `user_id` means all users."""
        return str(self._serializer.dumps([created_at, order_id], _salt(user_id, order_status)))

    def decode(self, user_id: str, order_status: str, cursor: str) -> tuple[str, str]:
        """Creation time and id of the last order of the page before. Raises InvalidCursor."""
        try:
            created_at, order_id = self._serializer.loads(cursor[:MAX_LENGTH], _salt(user_id, order_status))
        except BadData:
            raise InvalidCursor("this cursor does not belong to this list; start without one") from None
        return created_at, order_id

    @cached_property
    def _serializer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self._secret(), signer_kwargs={"digest_method": sha256})


def _salt(user_id: str, order_status: str) -> str:
    return json.dumps(["orders", user_id, order_status])
