"""Every refusal as `application/problem+json` (RFC 9457): translated here, once, and nowhere else."""

from collections.abc import Iterator
from typing import Any

import orjson
from flask import Flask, Response, g
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from app.contracts import Refused
from app.story import log

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_body": (400, "The body cannot be read"),
    "malformed_idempotency_key": (400, "The Idempotency-Key cannot be used"),
    "bad_request": (400, "The request cannot be read"),
    "order_not_found": (404, "No such order"),
    "not_found": (404, "No such page"),
    "method_not_allowed": (405, "This method does not work here"),
    "illegal_step": (409, "The order's state does not allow this"),
    "timeline_full": (409, "The order has had all the steps it may have"),
    "refund_exceeds_balance": (409, "More than is left of what was captured"),
    "conflict": (409, "The order was changed meanwhile"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body is of the wrong type"),
    "invalid_members": (422, "Some members cannot be used"),
    "wrong_currency": (422, "Not the order's currency"),
    "idempotency_key_reused": (422, "The Idempotency-Key stands for another request"),
    "internal_error": (500, "Something went wrong on our side"),
    "overloaded": (503, "Too much is waiting"),
    "unavailable": (503, "Not now"),
}
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def install(app: Flask) -> None:
    """Have every error of `app` answered as a problem."""
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def problem(code: str, detail: str, **members: Any) -> Response:
    """A problem of this kind; `members` stand beside the standard ones."""
    status, title = PROBLEMS[code]
    body = {
        "ok": False,
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "requestId": g.get("request_id", ""),
        **members,
    }
    return Response(orjson.dumps(body), status, content_type="application/problem+json")


def _refused(refusal: Refused) -> Response:
    members = dict(refusal.members)
    retry_after = members.pop("retry_after", 1)
    answer = problem(refusal.code, refusal.detail, **members)
    if answer.status_code == 503:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _invalid(error: ValidationError) -> Response:
    wrong = [{"pointer": pointer, "detail": detail} for pointer, detail in _pointers("", error.messages)]
    return problem("invalid_members", "; ".join(f"{one['pointer']}: {one['detail']}" for one in wrong), errors=wrong)


def _http(error: HTTPException) -> Response:
    if error.code is not None and error.code < 400:
        return Response(status=error.code, headers=dict(error.get_headers()))
    code = CODES.get(error.code or 500, "bad_request" if (error.code or 500) < 500 else "internal_error")
    answer = problem(code, _sentence(code, error))
    allow = dict(error.get_headers()).get("Allow")
    if allow:
        answer.headers["Allow"] = allow
    return answer


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, request_id=g.get("request_id", ""))
    return problem("internal_error", "this should not have happened; the request id leads to the log")


def _sentence(code: str, error: HTTPException) -> str:
    own = {
        "body_too_large": "a body may have 64 KiB at the most",
        "not_found": "there is nothing at this address",
    }
    return own.get(code) or error.description or PROBLEMS[code][1]


def _pointers(at: str, messages: Any) -> Iterator[tuple[str, str]]:
    if isinstance(messages, dict):
        for member, below in messages.items():
            yield from _pointers(f"{at}/{member}", below)
    elif isinstance(messages, list):
        for below in messages:
            yield from _pointers(at, below)
    else:
        yield at, str(messages)
