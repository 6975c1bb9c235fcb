"""What each kind of problem means and what to do about it, in words for whoever meets one."""

from typing import Any

# What each kind means, and what to do.
MEANINGS: dict[str, tuple[str, str]] = {
    "bad_request": (
        "The server could not make sense of the request line, a header or the address.",
        "Correct the request; repeating it unchanged will not help.",
    ),
    "malformed_body": (
        "The body is not one JSON object in UTF-8, or names a member twice, or holds a number that JSON has not.",
        "Send one JSON object. The detail says what is wrong with this one.",
    ),
    "malformed_idempotency_key": (
        "The Idempotency-Key header is there, but is not 1 to 255 visible ASCII characters, or is there twice.",
        "Send one key, such as a UUID, or none.",
    ),
    "malformed_condition": (
        "If-Match or If-None-Match holds neither * nor a list of entity tags in double quotes.",
        "Send the ETag of an earlier answer as it came, with its quotes.",
    ),
    "invalid_parameter": (
        "A query parameter, or a header of that kind, is given twice or has a value that cannot be used.",
        "The member parameter names it, and the detail says what it may be.",
    ),
    "invalid_cursor": (
        "The cursor was not made by this server, or belongs to the list of another user or status.",
        "Follow nextCursor or the Link header of a page as they came, with the same user and status; or begin without.",
    ),
    "order_not_found": (
        "There is no order of this id, or it is not yours.",
        "Check the id: 24 hexadecimal digits in lower case, as the order's Location had them.",
    ),
    "not_found": (
        "There is nothing at this address.",
        "GET /api shows what there is.",
    ),
    "unauthenticated": (
        "Nobody said who calls, and here that must be said.",
        "Send a token: Authorization: Bearer and the token, in this header alone.",
    ),
    "invalid_token": (
        "The token is expired, not for this service, not signed by whom it trusts, or none at all.",
        "Get a new token where this one came from.",
    ),
    "invalid_credentials": (
        "There is more than one credential, or one at a place where it does not belong.",
        "Send one Authorization header with one token, and no token in the address.",
    ),
    "insufficient_scope": (
        "The token is good, but does not allow this.",
        "Get a token with the scope that WWW-Authenticate names.",
    ),
    "wrong_user": (
        "Orders are placed for the user whom the token names, unless it has the scope orders:admin.",
        "Send the userId of the token's sub.",
    ),
    "refund_not_allowed": (
        "The order was confirmed or has a status of its own: cancelling it gives money back, which this token may not.",
        "Get a token with the scope orders:refund beside orders:write.",
    ),
    "cross_site_request": (
        "A browser says that a page of another site sends this, and callers are not asked who they are.",
        "Send it from this server's own pages, or from a program; or have callers show tokens (AUTH_JWT_…).",
    ),
    "misdirected_request": (
        "The Host header names no host that this server answers to, or there is none.",
        "Use the server's own name. Operators list further names in ALLOWED_HOSTS.",
    ),
    "request_timeout": (
        "The request did not arrive whole within the time it may take.",
        "Send it again over a better connection.",
    ),
    "address_too_long": (
        "The request line is longer than 4 KiB.",
        "Shorten the address; no address here needs as much.",
    ),
    "expectation_failed": (
        "The Expect header asks for something other than 100-continue.",
        "Leave the header out.",
    ),
    "rate_limited": (
        "You came more often than you may.",
        "Come again after as many seconds as Retry-After says; RateLimit-Policy tells how often you may.",
    ),
    "headers_too_large": (
        "There are too many headers, or one is too long.",
        "Send fewer and shorter ones; cookies are of no use here.",
    ),
    "not_implemented": (
        "The request uses something of HTTP that this server does not understand, such as an unknown transfer coding.",
        "Send it in a plainer way.",
    ),
    "method_not_allowed": (
        "The address is right, the method is not.",
        "The Allow header names the methods that work here.",
    ),
    "illegal_transition": (
        "The order's state does not allow the step.",
        "The members from, to and allowed say where the order is and where it may go; GET /state-machine shows all steps.",
    ),
    "timeline_full": (
        "The order has had 100 steps; from then on it takes no further text of a client's own as its status.",
        "Leave it as it is. It can still be confirmed, cancelled and refunded, and what becomes of its money is recorded.",
    ),
    "refund_exceeds_balance": (
        "The refund is more than is left of what was captured.",
        "The member remaining tells what is left, in minor units; an empty object, or the amount all, refunds it.",
    ),
    "too_many_refunds": (
        "The order was refunded in 40 parts, which is as many as it may be.",
        "Refund all that is left, by a request without an amount, or cancel the order.",
    ),
    "conflict": (
        "Others changed the order again and again while this request tried to.",
        "Nothing was changed. Try again.",
    ),
    "precondition_failed": (
        "The order is not at the version that If-Match names. Nothing was changed.",
        "The ETag header has its present version: look at the order, decide anew, and send that tag.",
    ),
    "body_too_large": (
        "The body is larger than 64 KiB.",
        "Send less; no request here needs as much.",
    ),
    "unsupported_media_type": (
        "The body is not application/json in UTF-8.",
        "Set Content-Type: application/json.",
    ),
    "invalid_members": (
        "Some members of the request are missing or cannot be used.",
        "The member errors names each by a JSON pointer and says what is wrong with it.",
    ),
    "misleading_status": (
        "The status reads like one of an order or a payment that only the system sets, such as Refunded.",
        "Say what happens to the goods. Where the money is, the member paymentStatus of the order tells.",
    ),
    "wrong_currency": (
        "An order is refunded in the currency it was paid in.",
        "Give the amount in the order's currency, or the word all for what is left.",
    ),
    "idempotency_key_reused": (
        "The Idempotency-Key was used for another request. Nothing was done.",
        "Use a new key for a new request, and the old key only to repeat the old one unchanged.",
    ),
    "too_many_streams": (
        "As many requests wait or stream as may at once, here or of yours.",
        "End some of yours, or wait as long as Retry-After says.",
    ),
    "too_many_open_orders": (
        "As many orders of the user wait for the outcome of their payment as may. Nothing was stored.",
        "Wait until some have settled; Retry-After says when it may be worth another try.",
    ),
    "internal_error": (
        "The server made a mistake. What it tells nobody here is in its log, under the request id.",
        "Tell the operators the request id. Repeating a POST with its Idempotency-Key does no harm.",
    ),
    "overloaded": (
        "More orders wait to be paid than can be worked off soon. Nothing was stored.",
        "Try again after as many seconds as Retry-After says.",
    ),
    "unavailable": (
        "The database cannot answer at the moment, so nobody can say whether the request had an effect.",
        "Repeat it after as many seconds as Retry-After says; POSTs with their Idempotency-Key have one effect.",
    ),
}

# What some kinds tell beside the standard members, as an example.
FACTS: dict[str, dict[str, Any]] = {
    "illegal_transition": {"from": "Cancelled", "to": "Confirm", "allowed": []},
    "refund_exceeds_balance": {"remaining": 900},
    "precondition_failed": {"version": 3},
    "invalid_parameter": {"parameter": "limit"},
    "invalid_members": {"errors": [{"pointer": "/userId", "detail": "Missing data for required field."}]},
}
