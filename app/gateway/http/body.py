"""Request bodies: JSON in UTF-8, parsed strictly, so that what is stored is what the client meant."""

import json
from typing import Any, NoReturn

from flask import Request, current_app
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout, UnsupportedMediaType

from app.contracts.base import ApplicationError
from app.gateway.apidocs.operation import Parameter
from app.gateway.http.card_numbers import check_no_card_number
from app.gateway.http.query import InvalidParameter, query_parameter
from app.gateway.http.responses import JSON

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_DIGITS = 4300
FLAGS = {"true": True, "false": False}
STRICT = Parameter(
    name="strict",
    where="query",
    description="`false` ignores members of the body that are not described here, `true` refuses them. Without it the "
    "setting `STRICT_BODIES` decides, which refuses them unless the operator has changed it.",
    schema={"type": "string", "enum": list(FLAGS)},
    example="true",
)


class MalformedBody(ApplicationError):
    """The body is not one JSON object in UTF-8."""

    code = "malformed_body"


def json_object(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object. Raises MalformedBody, CardNumberRefused, and werkzeug's errors for type, size or deadline."""
    if request.environ.get("CONTENT_TYPE") != JSON and not _is_json(request):
        raise UnsupportedMediaType("the body must be application/json in UTF-8")
    data = read_bytes(request)
    try:
        parsed = DECODER.decode(data.decode())
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except ValueError as exc:
        raise MalformedBody(f"the body is not JSON: {exc}") from None
    if not isinstance(parsed, dict):
        raise MalformedBody("the body must be a JSON object")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(parsed) > MAX_DEPTH:
        raise MalformedBody("the body is nested too deeply")
    check_no_card_number(parsed)
    return parsed


def is_strict() -> bool:
    """Whether unknown members of this request's body are refused: `?strict` says so, or else the setting. Raises InvalidParameter."""
    value = query_parameter(STRICT.name)
    if value is None:
        return bool(current_app.config["STRICT_BODIES"])
    if value not in FLAGS:
        raise InvalidParameter(f"{STRICT.name} is true or false", parameter=STRICT.name)
    return FLAGS[value]


def _is_json(request: Request) -> bool:
    return request.mimetype == JSON and request.mimetype_params.get("charset", "utf-8").lower() == "utf-8"


def read_bytes(request: Request) -> bytes:
    """The request's body as it came. Raises MalformedBody, and werkzeug's errors for a wrong size or deadline."""
    length = request.content_length
    if (length or 0) > MAX_BYTES:
        raise RequestEntityTooLarge
    try:
        # A body with a length is read without the framework's stream around it, which is faster.
        data: bytes = request.get_data(cache=False) if length is None else request.environ["wsgi.input"].read(length)
    except TimeoutError:
        raise RequestTimeout from None
    except OverflowError:  # The chunks' framing takes more bytes than the server allows.
        raise RequestEntityTooLarge from None
    except HTTPException as exc:
        if isinstance(exc.__context__, TimeoutError):
            raise RequestTimeout from None
        raise
    except Exception:  # Servers raise errors of their own for malformed chunks.
        raise MalformedBody("the body cannot be read") from None
    # The framework cuts a body without a length at its own limit, which is one byte above MAX_BYTES.
    if len(data) > MAX_BYTES:
        raise RequestEntityTooLarge
    if length is not None and len(data) < length:
        raise MalformedBody("the body is shorter than its Content-Length")
    return data


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        members = [member for item in level for member in (item.values() if isinstance(item, dict) else item)]
        level = [member for member in members if isinstance(member, dict | list)]
    return depth


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_int=_integer)
