"""The problems with which the server itself refuses a request, before the application sees it."""

import json
from typing import NamedTuple

from gunicorn.http import errors


class ServerProblem(NamedTuple):
    """A problem without its request id. The texts repeat nothing that the client has sent."""

    status: int
    code: str
    title: str
    detail: str


BAD_REQUEST = ServerProblem(400, "bad_request", "The request cannot be read", "this is not valid HTTP")
LINE_TOO_LONG = ServerProblem(414, "address_too_long", "The address is too long", "a request line may have 4 KiB")
EXPECTATION_FAILED = ServerProblem(
    417, "expectation_failed", "The expectation cannot be met", "only 100-continue is supported"
)
TOO_MANY_CONNECTIONS = ServerProblem(
    429, "rate_limited", "Too many requests", "this address has too many open connections"
)
LARGE_HEADERS = ServerProblem(
    431, "headers_too_large", "The headers are too large", "there may be 64 headers, each of 8 KiB"
)
INTERNAL_ERROR = ServerProblem(500, "internal_error", "Internal error", "this should not have happened")
UNSUPPORTED = ServerProblem(
    501,
    "not_implemented",
    "The request uses an unsupported feature of HTTP",
    "the only supported transfer coding is chunked",
)
# By exception: the first one that matches counts.
REFUSALS: list[tuple[type[Exception], ServerProblem]] = [
    (errors.InvalidResponseHeader, INTERNAL_ERROR),
    (errors.InvalidResponseHeaderName, INTERNAL_ERROR),
    (errors.ConfigurationProblem, INTERNAL_ERROR),
    (errors.LimitRequestLine, LINE_TOO_LONG),
    (errors.LimitRequestHeaders, LARGE_HEADERS),
    (errors.ExpectationFailed, EXPECTATION_FAILED),
    (errors.UnsupportedTransferCoding, UNSUPPORTED),
    (errors.ParseException, BAD_REQUEST),
]
HEADERS = (
    "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
)


def problem_response(refusal: ServerProblem, request_id: str) -> bytes:
    """The whole HTTP response: status line, headers and the problem as JSON."""
    problem = {"ok": False, "type": f"/problems/{refusal.code}", **refusal._asdict(), "requestId": request_id}
    body = json.dumps(problem, separators=(",", ":"))
    return (
        f"HTTP/1.1 {refusal.status} {refusal.title}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n{HEADERS}X-Request-Id: {request_id}\r\n\r\n{body}"
    ).encode()
