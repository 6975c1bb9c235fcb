"""The Idempotency-Key header: 1 to 255 visible ASCII characters, quoted or bare."""

import re

from werkzeug.datastructures import Headers

from app.contracts import Refused

KEY = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')


class MalformedKey(Refused):
    """The header is there but cannot be used."""

    code = "malformed_idempotency_key"


def idempotency_key(headers: Headers) -> str:
    """The key, empty where none is given. Raises MalformedKey."""
    given = headers.getlist("Idempotency-Key")
    if not given:
        return ""
    key = KEY.fullmatch(given[0].strip()) if len(given) == 1 else None
    if key is None:
        raise MalformedKey("an Idempotency-Key is 1 to 255 visible ASCII characters, and there is one of it")
    return key[1] or key[2]
