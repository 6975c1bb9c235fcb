"""Pages of lists: how long a page is, and where it begins."""

from app.gateway.apidocs.operation import Parameter
from app.gateway.http.cursors import MAX_LENGTH, CursorCodec, InvalidCursor
from app.gateway.http.query import integer, query_parameter

PAGE_SIZE = 100
LIMIT = Parameter(
    name="limit",
    where="query",
    description="The maximum number of items.",
    schema={"type": "integer", "minimum": 1, "maximum": PAGE_SIZE, "default": PAGE_SIZE},
    example=20,
)
CURSOR = Parameter(
    name="cursor",
    where="query",
    description="`nextCursor` of the previous page, of the same list with the same filters.",
    schema={"type": "string", "maxLength": MAX_LENGTH},
    example="WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI2OTIwIl0.c2VhbA",
)


def page_limit() -> int:
    """How many items the page may have. Raises InvalidParameter."""
    return integer("limit", query_parameter("limit"), 1, PAGE_SIZE) or PAGE_SIZE


def page_position(cursors: CursorCodec, user_id: str, filtered_by: str) -> tuple[str, str]:
    """Creation time and id of the last item of the previous page, both empty on the first page. Raises InvalidCursor."""
    cursor = query_parameter("cursor")
    if cursor is None:
        return "", ""
    if len(cursor) > MAX_LENGTH:
        raise InvalidCursor("this cursor is too long")
    return cursors.decode(user_id, filtered_by, cursor)
