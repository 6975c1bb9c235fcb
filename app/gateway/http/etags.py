"""Conditional requests (RFC 9110, 13): If-None-Match spares an answer, If-Match forbids a step on old knowledge."""

import re
from collections.abc import Iterator

from flask import Response, request

from app.contracts.base import ApplicationError
from app.gateway.apidocs.operation import Parameter
from app.gateway.http.responses import etag, json_answer

# A lookahead, which means the same as what is in it: tools that look whether they can draw such a header from letters and
# digits alone find that they cannot, and would then send what does not match at all instead of the example.
PATTERN = r'^(?=(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$)'
IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    where="header",
    description="Tags of what the client has, or `*`: 304 where the order is still so.",
    schema={"type": "string", "pattern": PATTERN},
    example='"6920c1b05be0d3a1f2c4e687-1"',
)
IF_MATCH = Parameter(
    name="If-Match",
    where="header",
    description="Tags of versions, or `*`: 412 unless the order has one of them, judged before the step itself.",
    schema={"type": "string", "pattern": PATTERN},
    example='"6920c1b05be0d3a1f2c4e687-2"',
)
ITEM = re.compile(r'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
VERSION = re.compile(r"([0-9a-f]{24})-([1-9][0-9]{0,8})")
ANYTHING = "*"
NO_VERSION = 0


class MalformedCondition(ApplicationError):
    """A conditional header is there but cannot be read."""

    code = "malformed_condition"


def unless_known(body: dict[str, object], order_id: str, version: int) -> Response:
    """200 with the body and its tag, or 304 where the client has that version. Raises MalformedCondition."""
    tag = etag(order_id, version)
    known = request.environ.get("HTTP_IF_NONE_MATCH")
    # The weak comparison: whether a tag of theirs is marked as weak does not matter.
    if known is not None and (known.strip() == ANYTHING or tag in [value for _, value in _tags(known)]):
        return Response(status=304, headers={"ETag": tag})
    return json_answer(body, 200, ETag=tag)


def expected_versions(order_id: str) -> tuple[int, ...]:
    """The versions that If-Match names of this order; empty where any will do. Raises MalformedCondition.

    Compared strongly: a weak tag, or one of something else, names no version that could ever be met.
    """
    wanted = request.environ.get("HTTP_IF_MATCH")
    if wanted is None or wanted.strip() == ANYTHING:
        return ()
    return tuple(_version(order_id, weak, value) for weak, value in _tags(wanted))


def _version(order_id: str, weak: bool, tag: str) -> int:
    named = VERSION.fullmatch(tag.strip('"'))
    return int(named[2]) if named and named[1] == order_id and not weak else NO_VERSION


def _tags(header: str) -> list[tuple[bool, str]]:
    tags = list(_scanned(header))
    if not tags:
        raise MalformedCondition("a condition is * or a list of entity tags in double quotes")
    return tags


def _scanned(header: str) -> Iterator[tuple[bool, str]]:
    """Each tag as `(weak, with its quotes)`; a list may have empty members."""
    at = 0
    while at < len(header):
        found = ITEM.match(header, at)
        if found is None:
            raise MalformedCondition("a condition is * or a list of entity tags in double quotes")
        if found[2] is not None:
            yield bool(found[1]), f'"{found[2]}"'
        at = found.end()
