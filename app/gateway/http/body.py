"""Request bodies: JSON in UTF-8, read strictly, so that what is stored is what the client meant."""

import json
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout, UnsupportedMediaType

from app.contracts.base import ApplicationError

JSON = "application/json"
LARGEST = 64 * 1024
DEEPEST = 20


class Malformed(ApplicationError):
    """The body is not one JSON object in UTF-8."""

    code = "malformed_body"


def json_object(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object. Raises Malformed, and werkzeug's UnsupportedMediaType and TooLarge."""
    if request.environ.get("CONTENT_TYPE") != JSON and not _is_json(request):
        raise UnsupportedMediaType("the body must be application/json in UTF-8")
    data = _whole(request)
    try:
        given = DECODER.decode(data.decode())
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    except ValueError as exc:
        raise Malformed(f"the body is not JSON: {exc}") from None
    if not isinstance(given, dict):
        raise Malformed("the body must be a JSON object")
    if data.count(b"{") + data.count(b"[") > DEEPEST and _depth(given) > DEEPEST:
        raise Malformed("the body is nested too deeply")
    return given


def _is_json(request: Request) -> bool:
    return request.mimetype == JSON and request.mimetype_params.get("charset", "utf-8").lower() == "utf-8"


def _whole(request: Request) -> bytes:
    length = request.content_length
    if (length or 0) > LARGEST:
        raise RequestEntityTooLarge
    try:
        # What has a length needs no stream of the framework around it.
        data: bytes = request.get_data(cache=False) if length is None else request.environ["wsgi.input"].read(length)
    except TimeoutError:
        raise RequestTimeout from None
    except OverflowError:  # More bytes on the wire, around small chunks, than the server takes.
        raise RequestEntityTooLarge from None
    except HTTPException as exc:
        if isinstance(exc.__context__, TimeoutError):
            raise RequestTimeout from None
        raise
    except Exception:  # Whatever a server raises for chunks that it cannot read.
        raise Malformed("the body cannot be read") from None
    # A body without a length is cut at the limit of the framework, which lies a byte above ours for this.
    if len(data) > LARGEST:
        raise RequestEntityTooLarge
    if length is not None and len(data) < length:
        raise Malformed("the body is shorter than its Content-Length")
    return data


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        values = [member for one in level for member in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in values if isinstance(value, dict | list)]
    return depth


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


MOST_DIGITS = 4300
DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_constant, parse_int=_integer)
