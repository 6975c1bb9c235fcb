"""Every refusal as `application/problem+json` (RFC 9457): translated here, once, and nowhere else."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from flask import Flask, Response, g
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from app.contracts.base import ApplicationError
from app.contracts.orders import StaleVersion
from app.gateway.http.responses import etag
from app.observability import metrics
from app.observability.logging import log

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_body": (400, "The body cannot be read"),
    "malformed_idempotency_key": (400, "The Idempotency-Key cannot be used"),
    "malformed_condition": (400, "The condition cannot be read"),
    "invalid_parameter": (400, "A parameter cannot be used"),
    "invalid_cursor": (400, "The cursor does not belong here"),
    "bad_request": (400, "The request cannot be read"),
    "invalid_credentials": (400, "More than one credential"),
    "unauthenticated": (401, "Who are you?"),
    "invalid_token": (401, "The token does not count here"),
    "insufficient_scope": (403, "The token does not allow this"),
    "refund_not_allowed": (403, "Cancelling would give money back"),
    "wrong_user": (403, "Not on this user's behalf"),
    "cross_site_request": (403, "A page of another site"),
    "order_not_found": (404, "No such order"),
    "not_found": (404, "No such page"),
    "method_not_allowed": (405, "This method does not work here"),
    "request_timeout": (408, "The request took too long to arrive"),
    "illegal_transition": (409, "The order's state does not allow this"),
    "timeline_full": (409, "The order has had all the texts it may have"),
    "refund_exceeds_balance": (409, "More than is left of what was captured"),
    "too_many_refunds": (409, "The order was refunded in all the parts it may be"),
    "conflict": (409, "The order was changed meanwhile"),
    "precondition_failed": (412, "The order is at another version"),
    "body_too_large": (413, "The body is too large"),
    "address_too_long": (414, "The address is too long"),
    "unsupported_media_type": (415, "The body is of the wrong type"),
    "expectation_failed": (417, "The expectation cannot be met"),
    "misdirected_request": (421, "Not a name of this server"),
    "invalid_members": (422, "Some members cannot be used"),
    "misleading_status": (422, "A status that only the system sets"),
    "wrong_currency": (422, "Not the order's currency"),
    "idempotency_key_reused": (422, "The Idempotency-Key stands for another request"),
    "rate_limited": (429, "Too often"),
    "too_many_streams": (429, "Too many are waiting"),
    "too_many_open_orders": (429, "Too many orders wait to be paid"),
    "headers_too_large": (431, "The headers are too large"),
    "internal_error": (500, "Something went wrong on our side"),
    "not_implemented": (501, "This is not understood here"),
    "overloaded": (503, "Too much is waiting"),
    "unavailable": (503, "Not now"),
}
# An answer must not grow with what is wrong in a request.
MOST_ERRORS = 20
LONGEST_NAME = 64
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def install(app: Flask) -> None:
    """Have every error of `app` answered as a problem."""
    app.register_error_handler(ApplicationError, _refused)
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def problem(code: str, detail: str, **members: Any) -> Response:
    """A problem of this kind; `members` stand beside the standard ones."""
    status, title = PROBLEMS[code]
    metrics.problem_counter(code).inc()
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


def _refused(refusal: ApplicationError) -> Response:
    members = dict(refusal.members)
    retry_after, challenge = members.pop("retry_after", 1), members.pop("challenge", "")
    tag = etag(members.pop("order_id"), members["version"]) if isinstance(refusal, StaleVersion) else ""
    answer = problem(refusal.code, refusal.detail, **members)
    if tag:
        answer.headers["ETag"] = tag
    if answer.status_code in (429, 503):
        answer.headers["Retry-After"] = str(retry_after)
    if challenge:
        answer.headers["WWW-Authenticate"] = challenge
    return answer


def _invalid(error: ValidationError) -> Response:
    pointers = islice(_pointers("", error.messages), MOST_ERRORS)
    wrong = [{"pointer": pointer, "detail": detail} for pointer, detail in pointers]
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
        "request_timeout": "the body did not arrive in time",
    }
    return own.get(code) or error.description or PROBLEMS[code][1]


def _token(member: object) -> str:
    """A member's name as a part of a JSON pointer (RFC 6901); clients choose names, so it is cut, and valid UTF-8."""
    name = str(member)[:LONGEST_NAME].encode(errors="replace").decode()
    return name.replace("~", "~0").replace("/", "~1")


def _pointers(at: str, messages: Any) -> Iterator[tuple[str, str]]:
    if isinstance(messages, dict):
        for member, below in messages.items():
            yield from _pointers(f"{at}/{_token(member)}", below)
    elif isinstance(messages, list):
        for below in messages:
            yield from _pointers(at, below)
    else:
        yield at, str(messages)
