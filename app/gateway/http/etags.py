"""Conditional requests (RFC 9110, 13): If-None-Match saves a response, If-Match prevents a change of an outdated version."""

import re
from collections.abc import Iterator

from flask import Response, request

from app.contracts.base import ApplicationError
from app.gateway.apidocs.operation import Parameter
from app.gateway.http.responses import etag, json_response

# Wrapped in a lookahead, which does not change what matches: tools that generate header values cannot generate from it and
# send the example. From the bare pattern they would generate values that do not match.
PATTERN = r'^(?=(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$)'
IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    where="header",
    description="Tags of the versions that the client has, or `*`: 304 if the order is still at one of them.",
    schema={"type": "string", "pattern": PATTERN},
    example='"6920c1b05be0d3a1f2c4e687-1"',
)
IF_MATCH = Parameter(
    name="If-Match",
    where="header",
    description="Tags of versions, or `*`: 412 unless the order is at one of them. Checked before the change itself.",
    schema={"type": "string", "pattern": PATTERN},
    example='"6920c1b05be0d3a1f2c4e687-2"',
)
LIST_ITEM = re.compile(r'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
VERSION_TAG = re.compile(r"([0-9a-f]{24})-([1-9][0-9]{0,8})")
ANY = "*"
NO_VERSION = 0


class MalformedCondition(ApplicationError):
    """A conditional header cannot be parsed."""

    code = "malformed_condition"


def not_modified_or(body: dict[str, object], order_id: str, version: int) -> Response:
    """304 if the client has this version, else 200 with `body`; both with its ETag. Raises MalformedCondition."""
    tag = etag(order_id, version)
    header = request.environ.get("HTTP_IF_NONE_MATCH")
    # Weak comparison: W/ is ignored.
    if header is not None and (header.strip() == ANY or tag in [value for _, value in _tags(header)]):
        return Response(status=304, headers={"ETag": tag})
    return json_response(body, ETag=tag)


def expected_versions(order_id: str) -> tuple[int, ...]:
    """The versions of this order that If-Match names; empty for any version. Raises MalformedCondition.

    Strong comparison: a weak tag, or a tag of another order, becomes NO_VERSION, which no order has.
    """
    header = request.environ.get("HTTP_IF_MATCH")
    if header is None or header.strip() == ANY:
        return ()
    return tuple(_version(order_id, weak, value) for weak, value in _tags(header))


def _version(order_id: str, weak: bool, tag: str) -> int:
    match = VERSION_TAG.fullmatch(tag.strip('"'))
    return int(match[2]) if match and match[1] == order_id and not weak else NO_VERSION


def _tags(header: str) -> list[tuple[bool, str]]:
    tags = list(_parse_tags(header))
    if not tags:
        raise MalformedCondition("a condition is * or a list of entity tags in double quotes")
    return tags


def _parse_tags(header: str) -> Iterator[tuple[bool, str]]:
    """Each tag as `(weak, tag in its quotes)`; a list may have empty items."""
    position = 0
    while position < len(header):
        match = LIST_ITEM.match(header, position)
        if match is None:
            raise MalformedCondition("a condition is * or a list of entity tags in double quotes")
        if match[2] is not None:
            yield bool(match[1]), f'"{match[2]}"'
        position = match.end()
