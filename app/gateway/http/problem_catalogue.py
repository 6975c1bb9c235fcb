"""Every kind of problem: its code, status and title, what it means and what to do. Handlers, OpenAPI and problem pages use it."""

from collections.abc import Mapping
from typing import Any

import msgspec


class ProblemKind(msgspec.Struct, frozen=True):
    """One kind of problem. `facts` are its members beside the standard ones, with an example of each."""

    status: int
    title: str
    meaning: str
    remedy: str
    facts: Mapping[str, Any] = {}


# fmt: off
PROBLEMS: dict[str, ProblemKind] = {
    "notification_rejected": ProblemKind(
        400, "The request is no notification of the payment provider",
        "The signature, the age or the form of the notification is wrong. Nothing was stored.",
        "Operators compare the provider's signing secret with the one in the settings.",
    ),
    "malformed_body": ProblemKind(
        400, "The body cannot be read",
        "The body is not one JSON object in UTF-8, repeats a member, or has a number that JSON does not allow.",
        "Send one JSON object. The detail says what is wrong with this body.",
    ),
    "malformed_idempotency_key": ProblemKind(
        400, "The Idempotency-Key cannot be used",
        "The Idempotency-Key header is not 1 to 255 visible ASCII characters, or is there twice.",
        "Send one key, such as a UUID, or none.",
    ),
    "malformed_condition": ProblemKind(
        400, "The condition cannot be read",
        "If-Match or If-None-Match has neither * nor a list of entity tags in double quotes.",
        "Send the ETag of an earlier response unchanged, with its quotes.",
    ),
    "invalid_parameter": ProblemKind(
        400, "A parameter cannot be used",
        "This address has no such query parameter, or it is given twice, or it, or a header with such a value, cannot be used.",
        "The member parameter names it, and the detail says which parameters or values are allowed.",
        {"parameter": "limit"},
    ),
    "invalid_cursor": ProblemKind(
        400, "The cursor does not belong to this list",
        "The cursor was not made by this server, or belongs to the list of another user, with other filters or sorted otherwise.",
        "Use nextCursor or the Link header unchanged, with the same user, filters and sorting; or start without a cursor.",
    ),
    "bad_request": ProblemKind(
        400, "The request cannot be read",
        "The server cannot read the request line, a header or the address.",
        "Correct the request; repeating it unchanged does not help.",
    ),
    "invalid_credentials": ProblemKind(
        400, "More than one credential",
        "There is more than one credential, or a token outside of the Authorization header.",
        "Send one Authorization header with one token, and no token in the address.",
    ),
    "unauthenticated": ProblemKind(
        401, "Authentication is required",
        "The request has no bearer token, and this operation needs one.",
        "Send the token in the Authorization header: the word Bearer, a space, the token.",
    ),
    "invalid_token": ProblemKind(
        401, "The token is not valid",
        "The token is expired, made for another service, not signed by a trusted issuer, or not a token.",
        "Get a new token from its issuer.",
    ),
    "insufficient_scope": ProblemKind(
        403, "The token does not allow this",
        "The token is valid, but lacks the scope that this operation needs.",
        "Get a token with the scope that WWW-Authenticate names.",
    ),
    "refund_not_allowed": ProblemKind(
        403, "Cancelling would refund money",
        "The order was confirmed or has a custom status: cancelling refunds it, and this token does not allow refunds.",
        "Get a token with the scope orders:refund beside orders:write.",
    ),
    "wrong_user": ProblemKind(
        403, "The token belongs to another user",
        "A token places orders for its own user only, unless it has the scope orders:admin.",
        "Send the token's sub as userId.",
    ),
    "cross_site_request": ProblemKind(
        403, "The request comes from another site",
        "A browser sent this from a page of another site, and this server does not authenticate its callers.",
        "Send it from this server's own pages or from a program, list the page's origin in CORS_ORIGINS, or switch authentication on (AUTH_JWT_…).",
    ),
    "order_not_found": ProblemKind(
        404, "The order does not exist",
        "There is no order with this id, or it belongs to another user.",
        "Check the id: 24 hexadecimal digits in lower case, as in the order's Location.",
    ),
    "endpoint_not_found": ProblemKind(
        404, "The endpoint does not exist",
        "There is no endpoint for webhooks with this id, it was deleted, or it belongs to another user.",
        "Check the id: GET /webhooks/endpoints lists the endpoints.",
    ),
    "delivery_not_found": ProblemKind(
        404, "The delivery does not exist",
        "There is no delivery with this id, it belongs to another user, or it is older than 30 days.",
        "Check the id: GET /webhooks/endpoints/{id}/deliveries lists the deliveries of an endpoint.",
    ),
    "invalid_endpoint": ProblemKind(
        422, "The endpoint is not allowed",
        "The member in `member` cannot be used; `detail` says why.",
        "Use an https address of the public internet, and event types of GET /event-types.",
    ),
    "too_many_endpoints": ProblemKind(
        409, "Too many endpoints",
        "A user may have 16 endpoints.",
        "Delete one, or tell one endpoint of more event types.",
    ),
    "refund_not_found": ProblemKind(
        404, "The refund does not exist",
        "The order has no refund with this id.",
        "Check the id: GET /orders/one/{id}/refunds lists the refunds of an order.",
    ),
    "unknown_provider": ProblemKind(
        404, "The payment provider is unknown",
        "No payment provider of this name sends notifications here.",
        "Use the name of the provider that PAYMENT_PROVIDER names.",
    ),
    "not_found": ProblemKind(
        404, "Nothing at this address",
        "There is nothing at this address.",
        "GET /api lists all addresses.",
    ),
    "method_not_allowed": ProblemKind(
        405, "The method is not allowed",
        "The address exists, but does not support this method.",
        "The Allow header lists the methods that it supports.",
    ),
    "request_timeout": ProblemKind(
        408, "The request took too long to arrive",
        "The request did not arrive completely within its deadline.",
        "Send it again over a better connection.",
    ),
    "illegal_transition": ProblemKind(
        409, "The order's state does not allow this",
        "The order's state does not allow this transition.",
        "The members from, to and allowed show the order's state and its next states; where money was to move, paymentStatus is there "
        "instead of to. See GET /state-machine.",
        {"from": "Cancelled", "to": "Confirm", "allowed": []},
    ),
    "orders_in_progress": ProblemKind(
        409, "An order of the user is in progress",
        "The money of an order of this user moves, or may move: a payment, a void or a refund is not settled. Nothing was erased.",
        "Wait until all orders of the user have settled, or cancel them; then erase again.",
    ),
    "timeline_full": ProblemKind(
        409, "The order's timeline is full",
        "The order has had 100 changes; it accepts no further custom status and no change of its metadata.",
        "Leave the status or the metadata. Confirming, cancelling and refunds remain possible, and payments are still recorded.",
    ),
    "refund_exceeds_balance": ProblemKind(
        409, "The refund exceeds the balance",
        "The refund is more than what is left of the captured amount.",
        'The member remaining is what is left, in minor units; an empty object or the amount "all" refunds it.',
        {"remaining": 900},
    ),
    "payment_disputed": ProblemKind(
        409, "The payment is disputed",
        "The payer has objected to the charge, and the provider has taken the money back for now: nothing can be refunded.",
        "Answer the dispute at the provider. If it is won, refunds are possible again; if it is lost, the payer has the money.",
    ),
    "capture_exceeds_authorization": ProblemKind(
        409, "The capture exceeds the authorization",
        "The capture is more than the amount that is authorized.",
        'The member authorized is that amount, in minor units; an empty object or the amount "all" captures it.',
        {"authorized": 9900},
    ),
    "already_captured": ProblemKind(
        409, "Another capture was asked for before",
        "An authorization is captured once, and a capture of another amount was asked for before. Nothing was done.",
        "Read the order and its timeline. What was captured too much can be refunded.",
    ),
    "too_many_refunds": ProblemKind(
        409, "The order has too many refunds",
        "The order was refunded in 40 parts, which is the limit.",
        "Refund all that is left by a request without an amount, or cancel the order.",
    ),
    "not_possible": ProblemKind(
        409, "The operator's command is not possible",
        "What an operator asks for does not fit the payment as it is, or money has moved that says otherwise. Nothing was changed.",
        "The detail says why. Read the lists under /operations again, and look the payment up at the provider.",
    ),
    "conflict": ProblemKind(
        409, "The order was changed meanwhile",
        "Other requests changed the order each time when this one tried to.",
        "Nothing was changed. Try again.",
    ),
    "precondition_failed": ProblemKind(
        412, "The order is at another version",
        "The order is not at the version that If-Match names. Nothing was changed.",
        "The ETag header has the present version: read the order, decide again, and send that tag.",
        {"version": 3},
    ),
    "body_too_large": ProblemKind(
        413, "The body is too large",
        "The body is larger than 64 KiB.",
        "Send less; no request here needs as much.",
    ),
    "address_too_long": ProblemKind(
        414, "The address is too long",
        "The request line is longer than 4 KiB.",
        "Shorten the address; no address here needs as much.",
    ),
    "unsupported_media_type": ProblemKind(
        415, "The body is of the wrong type",
        "The body is not application/json in UTF-8.",
        "Set Content-Type: application/json.",
    ),
    "expectation_failed": ProblemKind(
        417, "The expectation cannot be met",
        "The Expect header asks for something other than 100-continue.",
        "Send Expect: 100-continue or no Expect header.",
    ),
    "misdirected_request": ProblemKind(
        421, "The host is not served here",
        "The Host header is missing or names a host that this server does not serve.",
        "Use the server's own name. Operators list further names in ALLOWED_HOSTS.",
    ),
    "invalid_members": ProblemKind(
        422, "Some members cannot be used",
        "Some members of the request are missing, unknown or cannot be used.",
        "The member errors names each by a JSON pointer and says what is wrong with it.",
        {"errors": [{"pointer": "/userId", "detail": "Missing data for required field."}]},
    ),
    "card_number_refused": ProblemKind(
        422, "The body contains a card number",
        "A member of the body, or its name, is a card number: 13 to 19 digits with a valid check digit, spaces and dashes not "
        "counted. Nothing was stored or logged.",
        "Never send card numbers here: have the provider's own form make a token of the card, and send that as paymentMethod. "
        "An id that only looks like a card number is accepted with a letter in it.",
    ),
    "too_much_metadata": ProblemKind(
        422, "The order would have too much metadata",
        "With this change the order would have more than 20 pairs of metadata. Nothing was changed.",
        "Remove pairs in the same request: null removes the pair of its key.",
    ),
    "misleading_status": ProblemKind(
        422, "The status is reserved for the system",
        "The status reads like a status of an order or a payment that only the system sets, such as Refunded.",
        "Describe the goods. The order's member paymentStatus describes the money.",
    ),
    "wrong_currency": ProblemKind(
        422, "The currency is not the order's",
        "An order is captured and refunded in the currency in which it was placed.",
        "Give the amount in the order's currency, or the word all.",
    ),
    "idempotency_key_reused": ProblemKind(
        422, "The Idempotency-Key belongs to another request",
        "The Idempotency-Key was used for another request, such as a refund of another amount or with another reason. "
        "Nothing was done.",
        "Use a new key for a new request, and the old key only to repeat the old request unchanged.",
    ),
    "rate_limited": ProblemKind(
        429, "Too many requests",
        "The caller sent more requests than its rate limit allows.",
        "Wait as many seconds as Retry-After says; RateLimit-Policy has the limits.",
    ),
    "too_many_streams": ProblemKind(
        429, "Too many requests are waiting",
        "The limit of requests that wait or stream is reached, for this server or for this caller.",
        "End some of yours, or wait as long as Retry-After says.",
    ),
    "too_many_open_orders": ProblemKind(
        429, "Too many open orders",
        "The user has the maximum number of orders whose payment is not settled. Nothing was stored.",
        "Wait until some have settled; Retry-After says when to try again.",
    ),
    "headers_too_large": ProblemKind(
        431, "The headers are too large",
        "There are too many headers, or one is too long.",
        "Send fewer and shorter headers; the server uses no cookies.",
    ),
    "internal_error": ProblemKind(
        500, "Internal error",
        "The server has a defect. Its log has the details, under the request id.",
        "Report the request id to the operators. Repeating a POST with its Idempotency-Key is safe.",
    ),
    "not_implemented": ProblemKind(
        501, "The request uses an unsupported feature of HTTP",
        "The request uses a feature of HTTP that this server does not support, such as another transfer coding.",
        "Send the request without it.",
    ),
    "overloaded": ProblemKind(
        503, "The server is overloaded",
        "More orders wait for their payment than can be processed soon. Nothing was stored.",
        "Try again after as many seconds as Retry-After says.",
    ),
    "unavailable": ProblemKind(
        503, "The server is unavailable",
        "The database does not answer at the moment, so it is unknown whether the request had an effect.",
        "Repeat it after as many seconds as Retry-After says; a POST with its Idempotency-Key has one effect.",
    ),
}
# fmt: on

# Problems of any request, of one that needs a scope, of one that changes something, and of one with a body.
ANY_REQUEST = ("bad_request", "address_too_long", "headers_too_large")
WITH_SCOPE = (
    "invalid_credentials", "unauthenticated", "invalid_token", "insufficient_scope", "rate_limited", "misdirected_request",
)  # fmt: skip
CHANGING = ("cross_site_request",)
WITH_BODY = (
    "malformed_body", "body_too_large", "unsupported_media_type", "invalid_members", "card_number_refused", "request_timeout",
)  # fmt: skip
# Problems that several operations share: public ones, those that read one order, and those that change one.
PUBLIC = ("rate_limited", "misdirected_request")
READ_ONE = ("order_not_found", "unavailable")
READ_LIST = ("invalid_cursor", *READ_ONE)
CHANGE_ONE = ("malformed_condition", "illegal_transition", "conflict", "precondition_failed", *READ_ONE)
CHANGE_METADATA = (
    "malformed_condition",
    "conflict",
    "precondition_failed",
    "too_much_metadata",
    "timeline_full",
    *READ_ONE,
)
REVIEW = ("not_possible", *READ_ONE)
READ_ENDPOINT = ("endpoint_not_found", "unavailable")
CHANGE_ENDPOINT = (*READ_ENDPOINT, "conflict")
READ_DELIVERY = ("delivery_not_found", "unavailable")
WITH_IDEMPOTENCY_KEY = ("malformed_idempotency_key", "idempotency_key_reused")
