"""The items of an order: what a client sends, checked so that they are exactly the order's amount, and what it gets."""

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, pre_load, validate, validates_schema

from app.contracts.base import Money
from app.contracts.orders import ORDER_ITEMS, OrderItem
from app.gateway.http.money import MAX_VALUE, format_money
from app.gateway.http.schemas import AmountField, PlacedOrderSchema, TextField

MAX_QUANTITY = 1_000_000
# What an order of a single product has in place of items.
SINGLE_PRODUCT = ("productId", "productName")


class QuantityField(fields.Integer):
    """How many: a whole number, not written as text or with a fraction, and not true."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(1, MAX_QUANTITY), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if type(value) is not int:
            raise ValidationError("Must be a whole number.")
        return super()._deserialize(value, attr, data, **kwargs)


class NewItemSchema(Schema):
    """An item to order: `quantity` of a product, each for `unitAmount`."""

    class Meta:
        unknown = RAISE

    product_id = TextField(data_key="productId", required=True, metadata={"example": "1"})
    product_name = TextField(
        512, joiners=True, data_key="productName", required=True, metadata={"example": "Espresso machine"}
    )
    quantity = QuantityField(required=True, metadata={"example": 2})
    unit_amount = AmountField(
        data_key="unitAmount",
        required=True,
        metadata={"description": "Of one. All items of an order are in one currency.", "example": "RM 49.50"},
    )


class NewItemField(fields.Nested):
    """One item; what is no object is an error of the item itself."""

    def __init__(self) -> None:
        super().__init__(NewItemSchema)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        return super()._deserialize(value, *args, **kwargs)


class NewItemOrderSchema(PlacedOrderSchema):
    """An order of several items to place. Other members are rejected, or ignored by a schema made with `unknown=EXCLUDE`."""

    class Meta:
        unknown = RAISE

    items = fields.List(
        NewItemField(),
        required=True,
        validate=validate.Length(1, ORDER_ITEMS),
        metadata={"description": "`productId` and `productName` of the order are those of the first."},
    )
    total = AmountField(
        data_key="totalOrderAmount",
        metadata={
            "description": "Exactly the sum of the items; it may be left out.",
            "example": "RM 99",
        },
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fields["items"].inner.schema.unknown = self.unknown  # type: ignore[attr-defined]

    @pre_load
    def check_single_product(self, data: Any, **_: Any) -> Any:
        """Raise ValidationError for members of an order of a single product."""
        if data.get("items", ()) is None:
            # It is not an order of items, and not without a word an order of a single product.
            raise ValidationError(
                {"items": ["Must be a list of items; leave it out for an order of a single product."]}
            )
        beside = [name for name in SINGLE_PRODUCT if name in data]
        if beside:
            raise ValidationError({name: ["Must be left out beside items."] for name in beside})
        return data

    @validates_schema(skip_on_field_errors=True)
    def check_sum(self, order: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError unless the items are in one currency and are, added up, the order's amount."""
        currency = order["items"][0]["unit_amount"].currency
        others = {
            at: {"unitAmount": [f"Must be in {currency}, as the first item is."]}
            for at, item in enumerate(order["items"])
            if item["unit_amount"].currency != currency
        }
        if others:
            raise ValidationError({"items": others})
        total = _sum(order["items"])
        if total.value > MAX_VALUE:
            raise ValidationError({"items": [f"Must not add up to more than {MAX_VALUE} minor units."]})
        if order.get("total", total) != total:
            raise ValidationError({"totalOrderAmount": [f"Must be the sum of the items, {format_money(total)}."]})

    @post_load
    def complete(self, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The order with the members that follow from its items."""
        items = tuple(OrderItem(**item) for item in order["items"])
        first = items[0]
        return {
            **order,
            "items": items,
            "product_id": first.product_id,
            "product_name": first.product_name,
            "total": _sum(order["items"]),
        }


def _sum(items: list[dict[str, Any]]) -> Money:
    value = sum(item["quantity"] * item["unit_amount"].value for item in items)
    return Money(value, items[0]["unit_amount"].currency)
