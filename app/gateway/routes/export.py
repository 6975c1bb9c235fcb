"""All orders of a list in one response, written page by page while they are read."""

import errno
import time
import zlib
from collections.abc import Callable, Iterator, Sequence

from flask import Blueprint, Response, g, request

from app.contracts.base import NotFound, Unavailable
from app.contracts.orders import FindOrder, OrderView
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http.order_lines import CSV, ENCODERS, NDJSON, csv_header
from app.gateway.http.pages import PAGE_SIZE
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.query import InvalidParameter, query_parameter, text_parameter
from app.gateway.routes.lists import FILTERS, USER_ID, Page, Place, order_filter, read_page, user_of_list
from app.gateway.security.caller import READ, request_origin
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient
from app.observability.logging import log

FORMATS = {"ndjson": NDJSON, "csv": CSV}
FORMAT = Parameter(
    name="format",
    where="query",
    description="`ndjson` or `csv`; without it the header Accept decides, and NDJSON is what is neither asked for nor refused.",
    schema={"type": "string", "enum": [*FORMATS]},
    example="csv",
)
AFTER = Parameter(
    name="after",
    where="query",
    description="The id of the last order that arrived whole: the export goes on after it, without a header of names.",
    schema={"type": "string", "pattern": "^[0-9a-f]{24}$"},
    example="6920c1b05be0d3a1f2c4e687",
)
SAMPLES = {
    NDJSON: '{"id":"6920c1b05be0d3a1f2c4e687","userId":"user-7",…}\n',
    CSV: "id,createdAt,updatedAt,userId,…\r\n6920c1b05be0d3a1f2c4e687,2026-11-22T15:23:02.900Z,…\r\n",
}
# For how long a page is asked for again while orders or the database do not answer, and the pause in between.
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 1.0
# zlib's number for the format of gzip with the largest window.
GZIP_WINDOW = 31
FASTEST = 1

ReadPage = Callable[[Place], Page]


def add_routes(routes: Blueprint, bus: RequestClient, limits: StreamLimits, stopping: Callable[[], bool]) -> None:
    """Add the export to the routes under /orders; `limits` are for exports alone. `stopping` is whether the process stops."""

    @routes.get("/export")
    @Operation(
        "Export the orders of a user, or of all users",
        description="One order a line, as many as there are. A response that was cut off goes on with `after`. A user whose name is "
        "`export` has its list at `/orders?userId=export`.",
        scope=READ,
        responses={200: None},
        media_types=SAMPLES,
        problems=("too_many_streams", *READ_ONE),
        parameters=(USER_ID, *FILTERS, FORMAT, AFTER),
        headers=("Content-Disposition",),
    )
    def export_orders() -> Response:
        media_type, user_id, selected = _media_type(), user_of_list(), order_filter()
        request_id, begun = g.request_id, _place_of(bus, user_id)

        def read(place: Place) -> Page:
            return read_page(bus, request_id, user_id, selected, place, PAGE_SIZE)

        caller_key = limits.acquire()
        try:
            pages = pages_after(read, read(begun), stopping)
        except BaseException:
            limits.release(caller_key)
            raise
        response = _response(export_lines(pages, media_type, with_header=not begun[1]), media_type)
        response.call_on_close(lambda: limits.release(caller_key))
        return response


def export_lines(pages: Iterator[Sequence[OrderView]], media_type: str, with_header: bool) -> Iterator[bytes]:
    """The orders of each page as lines; CSV begins with the names of its columns, unless it goes on."""
    if media_type == CSV and with_header:
        yield csv_header()
    encode = ENCODERS[media_type]
    for orders in pages:
        if orders:
            yield encode(orders)


def pages_after(
    read: ReadPage, page: Page, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Sequence[OrderView]]:
    """The orders of `page` and of those that follow. No cursor of the database stays open between two of them.

    Raises ConnectionResetError where it cannot go on, so that the client sees that its response is not whole.
    """
    orders, following = page
    yield orders
    while following:
        if stopping():
            raise _cut_off("the process is stopping")
        orders, following = _read_patiently(read, following)
        yield orders


def _read_patiently(read: ReadPage, place: Place) -> Page:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read(place)
        except Unavailable as exc:
            if time.monotonic() >= deadline:
                raise _cut_off(exc.detail) from None
            time.sleep(PAUSE_SECONDS)


def _cut_off(reason: str) -> ConnectionResetError:
    log.warning("export cut off", module="gateway", reason=reason)
    return ConnectionResetError(errno.ECONNRESET, reason)


def _place_of(bus: RequestClient, user_id: str) -> Place:
    """Where the export begins. Raises InvalidParameter."""
    order_id = text_parameter(AFTER.name, 24)
    if not order_id:
        return "", ""
    try:
        order = bus.request(FindOrder(order_id=order_id, **request_origin()))
    except NotFound:
        raise InvalidParameter("after is no order", parameter=AFTER.name) from None
    if user_id not in ("", order.user_id):
        raise InvalidParameter("after is an order of another user", parameter=AFTER.name)
    return order.created_at, order.id


def _media_type() -> str:
    name = query_parameter(FORMAT.name)
    if name is None:
        return request.accept_mimetypes.best_match([NDJSON, CSV], NDJSON)
    if name not in FORMATS:
        raise InvalidParameter(f"format is one of {', '.join(FORMATS)}", parameter=FORMAT.name)
    return FORMATS[name]


def _response(lines: Iterator[bytes], media_type: str) -> Response:
    name = next(name for name, known in FORMATS.items() if known == media_type)
    headers = {
        "Content-Disposition": f'attachment; filename="orders.{name}"',
        "Vary": "Accept, Accept-Encoding",
    }
    if request.accept_encodings["gzip"]:
        headers["Content-Encoding"] = "gzip"
        lines = _gzipped(lines)
    return Response(lines, headers=headers, content_type=f"{media_type}; charset=utf-8")


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, compressed; each can be read as soon as it arrives."""
    packer = zlib.compressobj(FASTEST, zlib.DEFLATED, GZIP_WINDOW)
    for chunk in chunks:
        yield packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()
