"""Every kind of problem: its code, status and title, what it means and what to do. Handlers, OpenAPI and problem pages use it."""

from collections.abc import Mapping
from typing import Any

import msgspec


class ProblemKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of problem. `facts` are its members beside the standard ones, with an example of each."""

    status: int
    title: str
    meaning: str
    remedy: str
    facts: Mapping[str, Any] = {}


PROBLEMS: dict[str, ProblemKind] = {
    "malformed_body": ProblemKind(
        status=400,
        title="The body cannot be read",
        meaning="The body is not one JSON object in UTF-8, repeats a member, or has a number that JSON does not allow.",
        remedy="Send one JSON object. The detail says what is wrong with this body.",
    ),
    "malformed_idempotency_key": ProblemKind(
        status=400,
        title="The Idempotency-Key cannot be used",
        meaning="The Idempotency-Key header is not 1 to 255 visible ASCII characters, or is there twice.",
        remedy="Send one key, such as a UUID, or none.",
    ),
    "malformed_condition": ProblemKind(
        status=400,
        title="The condition cannot be read",
        meaning="If-Match or If-None-Match has neither * nor a list of entity tags in double quotes.",
        remedy="Send the ETag of an earlier response unchanged, with its quotes.",
    ),
    "invalid_parameter": ProblemKind(
        status=400,
        title="A parameter cannot be used",
        meaning="A query parameter, or a header with such a value, is given twice or has a value that cannot be used.",
        remedy="The member parameter names it, and the detail says which values are allowed.",
        facts={"parameter": "limit"},
    ),
    "invalid_cursor": ProblemKind(
        status=400,
        title="The cursor does not belong to this list",
        meaning="The cursor was not made by this server, or belongs to the list of another user or status.",
        remedy="Use nextCursor or the Link header unchanged, with the same user and status; or start without a cursor.",
    ),
    "bad_request": ProblemKind(
        status=400,
        title="The request cannot be read",
        meaning="The server cannot read the request line, a header or the address.",
        remedy="Correct the request; repeating it unchanged does not help.",
    ),
    "invalid_credentials": ProblemKind(
        status=400,
        title="More than one credential",
        meaning="There is more than one credential, or a token outside of the Authorization header.",
        remedy="Send one Authorization header with one token, and no token in the address.",
    ),
    "unauthenticated": ProblemKind(
        status=401,
        title="Authentication is required",
        meaning="The request has no bearer token, and this operation needs one.",
        remedy="Send the token in the Authorization header: the word Bearer, a space, the token.",
    ),
    "invalid_token": ProblemKind(
        status=401,
        title="The token is not valid",
        meaning="The token is expired, made for another service, not signed by a trusted issuer, or not a token.",
        remedy="Get a new token from its issuer.",
    ),
    "insufficient_scope": ProblemKind(
        status=403,
        title="The token does not allow this",
        meaning="The token is valid, but lacks the scope that this operation needs.",
        remedy="Get a token with the scope that WWW-Authenticate names.",
    ),
    "refund_not_allowed": ProblemKind(
        status=403,
        title="Cancelling would refund money",
        meaning="The order was confirmed or has a custom status: cancelling refunds it, and this token does not allow refunds.",
        remedy="Get a token with the scope orders:refund beside orders:write.",
    ),
    "wrong_user": ProblemKind(
        status=403,
        title="The token belongs to another user",
        meaning="A token places orders for its own user only, unless it has the scope orders:admin.",
        remedy="Send the token's sub as userId.",
    ),
    "cross_site_request": ProblemKind(
        status=403,
        title="The request comes from another site",
        meaning="A browser sent this from a page of another site, and this server does not authenticate its callers.",
        remedy="Send it from this server's own pages or from a program, or switch authentication on (AUTH_JWT_…).",
    ),
    "order_not_found": ProblemKind(
        status=404,
        title="The order does not exist",
        meaning="There is no order with this id, or it belongs to another user.",
        remedy="Check the id: 24 hexadecimal digits in lower case, as in the order's Location.",
    ),
    "not_found": ProblemKind(
        status=404,
        title="Nothing at this address",
        meaning="There is nothing at this address.",
        remedy="GET /api lists all addresses.",
    ),
    "method_not_allowed": ProblemKind(
        status=405,
        title="The method is not allowed",
        meaning="The address exists, but does not support this method.",
        remedy="The Allow header lists the methods that it supports.",
    ),
    "request_timeout": ProblemKind(
        status=408,
        title="The request took too long to arrive",
        meaning="The request did not arrive completely within its deadline.",
        remedy="Send it again over a better connection.",
    ),
    "illegal_transition": ProblemKind(
        status=409,
        title="The order's state does not allow this",
        meaning="The order's state does not allow this transition.",
        remedy="The members from, to and allowed show the order's state and its next states; see GET /state-machine.",
        facts={"from": "Cancelled", "to": "Confirm", "allowed": []},
    ),
    "timeline_full": ProblemKind(
        status=409,
        title="The order's timeline is full",
        meaning="The order has had 100 changes; it accepts no further custom status.",
        remedy="Leave the status. Confirming, cancelling and refunds remain possible, and payments are still recorded.",
    ),
    "refund_exceeds_balance": ProblemKind(
        status=409,
        title="The refund exceeds the balance",
        meaning="The refund is more than what is left of the captured amount.",
        remedy='The member remaining is what is left, in minor units; an empty object or the amount "all" refunds it.',
        facts={"remaining": 900},
    ),
    "too_many_refunds": ProblemKind(
        status=409,
        title="The order has too many refunds",
        meaning="The order was refunded in 40 parts, which is the limit.",
        remedy="Refund all that is left by a request without an amount, or cancel the order.",
    ),
    "conflict": ProblemKind(
        status=409,
        title="The order was changed meanwhile",
        meaning="Other requests changed the order each time when this one tried to.",
        remedy="Nothing was changed. Try again.",
    ),
    "precondition_failed": ProblemKind(
        status=412,
        title="The order is at another version",
        meaning="The order is not at the version that If-Match names. Nothing was changed.",
        remedy="The ETag header has the present version: read the order, decide again, and send that tag.",
        facts={"version": 3},
    ),
    "body_too_large": ProblemKind(
        status=413,
        title="The body is too large",
        meaning="The body is larger than 64 KiB.",
        remedy="Send less; no request here needs as much.",
    ),
    "address_too_long": ProblemKind(
        status=414,
        title="The address is too long",
        meaning="The request line is longer than 4 KiB.",
        remedy="Shorten the address; no address here needs as much.",
    ),
    "unsupported_media_type": ProblemKind(
        status=415,
        title="The body is of the wrong type",
        meaning="The body is not application/json in UTF-8.",
        remedy="Set Content-Type: application/json.",
    ),
    "expectation_failed": ProblemKind(
        status=417,
        title="The expectation cannot be met",
        meaning="The Expect header asks for something other than 100-continue.",
        remedy="Send Expect: 100-continue or no Expect header.",
    ),
    "misdirected_request": ProblemKind(
        status=421,
        title="The host is not served here",
        meaning="The Host header is missing or names a host that this server does not serve.",
        remedy="Use the server's own name. Operators list further names in ALLOWED_HOSTS.",
    ),
    "invalid_members": ProblemKind(
        status=422,
        title="Some members cannot be used",
        meaning="Some members of the request are missing or cannot be used.",
        remedy="The member errors names each by a JSON pointer and says what is wrong with it.",
        facts={"errors": [{"pointer": "/userId", "detail": "Missing data for required field."}]},
    ),
    "misleading_status": ProblemKind(
        status=422,
        title="The status is reserved for the system",
        meaning="The status reads like a status of an order or a payment that only the system sets, such as Refunded.",
        remedy="Describe the goods. The order's member paymentStatus describes the money.",
    ),
    "wrong_currency": ProblemKind(
        status=422,
        title="The currency is not the order's",
        meaning="An order is refunded in the currency in which it was paid.",
        remedy="Give the amount in the order's currency, or the word all for what is left.",
    ),
    "idempotency_key_reused": ProblemKind(
        status=422,
        title="The Idempotency-Key belongs to another request",
        meaning="The Idempotency-Key was used for another request. Nothing was done.",
        remedy="Use a new key for a new request, and the old key only to repeat the old request unchanged.",
    ),
    "rate_limited": ProblemKind(
        status=429,
        title="Too many requests",
        meaning="The caller sent more requests than its rate limit allows.",
        remedy="Wait as many seconds as Retry-After says; RateLimit-Policy has the limits.",
    ),
    "too_many_streams": ProblemKind(
        status=429,
        title="Too many requests are waiting",
        meaning="The limit of requests that wait or stream is reached, for this server or for this caller.",
        remedy="End some of yours, or wait as long as Retry-After says.",
    ),
    "too_many_open_orders": ProblemKind(
        status=429,
        title="Too many open orders",
        meaning="The user has the maximum number of orders whose payment is not settled. Nothing was stored.",
        remedy="Wait until some have settled; Retry-After says when to try again.",
    ),
    "headers_too_large": ProblemKind(
        status=431,
        title="The headers are too large",
        meaning="There are too many headers, or one is too long.",
        remedy="Send fewer and shorter headers; the server uses no cookies.",
    ),
    "internal_error": ProblemKind(
        status=500,
        title="Internal error",
        meaning="The server has a defect. Its log has the details, under the request id.",
        remedy="Report the request id to the operators. Repeating a POST with its Idempotency-Key is safe.",
    ),
    "not_implemented": ProblemKind(
        status=501,
        title="The request uses an unsupported feature of HTTP",
        meaning="The request uses a feature of HTTP that this server does not support, such as another transfer coding.",
        remedy="Send the request without it.",
    ),
    "overloaded": ProblemKind(
        status=503,
        title="The server is overloaded",
        meaning="More orders wait for their payment than can be processed soon. Nothing was stored.",
        remedy="Try again after as many seconds as Retry-After says.",
    ),
    "unavailable": ProblemKind(
        status=503,
        title="The server is unavailable",
        meaning="The database does not answer at the moment, so it is unknown whether the request had an effect.",
        remedy="Repeat it after as many seconds as Retry-After says; a POST with its Idempotency-Key has one effect.",
    ),
}

# Problems of any request, of one that needs a scope, and of one with a body.
ANY_REQUEST = ("bad_request", "address_too_long", "headers_too_large")
WITH_SCOPE = (
    "invalid_credentials", "unauthenticated", "invalid_token", "insufficient_scope", "rate_limited", "misdirected_request",
)  # fmt: skip
WITH_BODY = (
    "malformed_body", "body_too_large", "unsupported_media_type", "invalid_members", "request_timeout", "cross_site_request",
)  # fmt: skip
# Problems that several operations share: public ones, those that read one order, and those that change one.
PUBLIC = ("rate_limited", "misdirected_request")
READ_ONE = ("order_not_found", "unavailable")
READ_LIST = ("invalid_parameter", "invalid_cursor", *READ_ONE)
CHANGE_ONE = ("malformed_condition", "illegal_transition", "conflict", "precondition_failed", *READ_ONE)
WITH_IDEMPOTENCY_KEY = ("malformed_idempotency_key", "idempotency_key_reused")
