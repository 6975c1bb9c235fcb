"""Orders as lines of text: NDJSON, and CSV (RFC 4180) that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Callable, Sequence
from io import StringIO

from app.contracts.base import Money
from app.contracts.orders import OrderView
from app.gateway.http.money import decimal_text
from app.gateway.http.responses import encode_json

NDJSON = "application/x-ndjson"
CSV = "text/csv"
# What spreadsheets take for a formula if a cell begins with it, also as wide characters.
FORMULA = re.compile("[=+\\-@\t\r\n＝＋－＠]")
# The members of an order in CSV. Amounts are decimal numbers in the order's currency, empty where the order has none.
TEXTS = ("id", "createdAt", "updatedAt", "userId", "productId", "productName", "totalOrderAmount", "orderStatus")
AMOUNTS = ("total", "captured", "refunded", "pending", "refundable", "blocked", "authorized", "uncertain")
COLUMNS = (*TEXTS, "paymentStatus", "version", "currency", *AMOUNTS, "metadata")


def ndjson_lines(orders: Sequence[OrderView]) -> bytes:
    """Each order as JSON on a line, as lists have it."""
    return b"".join(encode_json(order) + b"\n" for order in orders)


def csv_lines(orders: Sequence[OrderView]) -> bytes:
    """Each order as a record with COLUMNS."""
    return _records(map(_record, orders))


def csv_header() -> bytes:
    """The names of COLUMNS as a record."""
    return _records([COLUMNS])


# What writes orders, by media type.
ENCODERS: dict[str, Callable[[Sequence[OrderView]], bytes]] = {NDJSON: ndjson_lines, CSV: csv_lines}


def _records(rows: object) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def _record(order: OrderView) -> list[str]:
    texts = (order.id, order.created_at, order.updated_at, order.user_id, order.product_id, order.product_name)
    states = (order.total_order_amount, order.order_status, order.payment_status, str(order.version))
    taken = (order.total, order.captured, order.refunded, order.pending, order.refundable)
    amounts = (*taken, order.blocked, order.authorized, order.uncertain)
    # As JSON, which no spreadsheet takes for a formula.
    metadata = encode_json(order.metadata).decode() if order.metadata else ""
    return [*map(_cell, (*texts, *states)), order.total.currency, *map(_amount, amounts), metadata]


def _cell(text: str) -> str:
    """The text, after an apostrophe if a spreadsheet would take it for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def _amount(money: Money | None) -> str:
    return "" if money is None else decimal_text(money)
