"""The server's own refusals, as the problems that the application answers with."""

import json
from uuid import uuid4

from gunicorn.http import errors

# By kind of error, the first that fits: status, code, title and detail. What the client sent is never told back.
Refusal = tuple[int, str, str, str]
OURS: Refusal = (500, "internal_error", "Internal error", "this should not have happened")
TOO_MANY: Refusal = (
    429,
    "rate_limited",
    "Too many requests",
    "this address has as many connections open as one may have",
)
REFUSALS: list[tuple[type[Exception], Refusal]] = [
    (errors.InvalidResponseHeader, OURS),
    (errors.InvalidResponseHeaderName, OURS),
    (errors.ConfigurationProblem, OURS),
    (errors.LimitRequestLine, (414, "address_too_long", "The address is too long", "a request line may have 4 KiB")),
    (
        errors.LimitRequestHeaders,
        (431, "headers_too_large", "The headers are too large", "there may be 64 headers, each of 8 KiB"),
    ),
    (
        errors.ExpectationFailed,
        (417, "expectation_failed", "The expectation cannot be met", "the one that can is 100-continue"),
    ),
    (
        errors.UnsupportedTransferCoding,
        (
            501,
            "not_implemented",
            "The request uses an unsupported feature of HTTP",
            "the transfer coding that is understood is chunked",
        ),
    ),
    (errors.ParseException, (400, "bad_request", "The request cannot be read", "this is not HTTP as it should be")),
]
HEADERS = (
    "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
)


def problem(refusal: Refusal) -> bytes:
    """The whole answer that tells of a refusal."""
    status, code, title, detail = refusal
    request_id = uuid4().hex
    told = {"ok": False, "type": f"/problems/{code}", "title": title, "status": status, "detail": detail}
    body = json.dumps({**told, "code": code, "requestId": request_id}, separators=(",", ":"))
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{HEADERS}X-Request-Id: {request_id}\r\n\r\n{body}".encode()
