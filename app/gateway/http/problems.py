"""Every error as `application/problem+json` (RFC 9457): the only place where errors become HTTP responses."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import Flask, Response, g
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from app.contracts.base import ApplicationError
from app.contracts.orders import StaleVersion
from app.gateway.http.problem_catalogue import PROBLEMS
from app.gateway.http.query import MAX_NAME_LENGTH
from app.gateway.http.responses import etag, json_response
from app.observability import metrics
from app.observability.logging import log

PROBLEM_JSON = "application/problem+json"
# Bounds on a problem's size, for requests of any size.
MAX_ERRORS = 20
CODES_BY_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
}
DETAILS = {
    "body_too_large": "the body is larger than 64 KiB",
    "not_found": "there is nothing at this address",
    "request_timeout": "the body did not arrive in time",
}


def install(app: Flask) -> None:
    """Make `app` answer every error with a problem."""
    app.register_error_handler(ApplicationError, _application_error)
    app.register_error_handler(ValidationError, _validation_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, _unexpected_error)


def problem_response(code: str, detail: str, **members: Any) -> Response:
    """A problem of this kind; `members` are added to the standard ones."""
    kind = PROBLEMS[code]
    metrics.problem_counter(code).inc()
    g.problem_code = code
    body = {
        "ok": False,
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
        "requestId": g.get("request_id", ""),
        **members,
    }
    return json_response(body, kind.status, PROBLEM_JSON)


def _application_error(error: ApplicationError) -> Response:
    members = dict(error.members)
    retry_after, challenge = members.pop("retry_after", 1), members.pop("challenge", "")
    tag = etag(members.pop("order_id"), members["version"]) if isinstance(error, StaleVersion) else ""
    response = problem_response(error.code, error.detail, **members)
    if tag:
        response.headers["ETag"] = tag
    if response.status_code in (429, 503):
        response.headers["Retry-After"] = str(retry_after)
    if challenge:
        response.headers["WWW-Authenticate"] = challenge
    return response


def _validation_error(error: ValidationError) -> Response:
    pointers = islice(_pointers("", error.messages), MAX_ERRORS)
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in pointers]
    detail = "; ".join(f"{error['pointer']}: {error['detail']}" for error in errors)
    return problem_response("invalid_members", detail, errors=errors)


def http_error(error: HTTPException) -> Response:
    """The problem of an error that Flask has raised; a redirect stays one."""
    status = error.code or 500
    if error.code is not None and status < 400:
        return Response(status=status, headers=dict(error.get_headers()))
    code = CODES_BY_STATUS.get(status, "bad_request" if status < 500 else "internal_error")
    response = problem_response(code, DETAILS.get(code) or error.description or PROBLEMS[code].title)
    allow = dict(error.get_headers()).get("Allow")
    if allow:
        response.headers["Allow"] = allow
    return response


def _unexpected_error(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, request_id=g.get("request_id", ""))
    return problem_response("internal_error", "unexpected error; the log has it under the request id")


def _pointers(path: str, messages: Any) -> Iterator[tuple[str, str]]:
    """Each error of marshmallow's nested messages, with the JSON pointer (RFC 6901) to its member."""
    if isinstance(messages, dict):
        for member, nested in messages.items():
            yield from _pointers(f"{path}/{_pointer_token(member)}", nested)
    elif isinstance(messages, list):
        for nested in messages:
            yield from _pointers(path, nested)
    else:
        yield path, str(messages)


def _pointer_token(member: object) -> str:
    """A member's name in a JSON pointer: clients choose names, so it is cut and made valid UTF-8."""
    name = str(member)[:MAX_NAME_LENGTH].encode(errors="replace").decode()
    return name.replace("~", "~0").replace("/", "~1")
