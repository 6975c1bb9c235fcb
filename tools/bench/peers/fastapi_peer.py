"""The asynchronous peer: FastAPI and PyMongo's async client on uvicorn, payments as tasks; equally durable writes."""

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from bson import ObjectId
from bson.errors import InvalidId
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from pymongo import DESCENDING, AsyncMongoClient

PAGE = 100
Text = Annotated[str, Field(min_length=1, max_length=128)]


class NewOrder(BaseModel):
    """An order to place."""

    userId: Text  # noqa: N815 - the member's name
    productId: Text  # noqa: N815
    productName: Annotated[str, Field(min_length=1, max_length=512)]  # noqa: N815
    totalOrderAmount: Annotated[str, Field(min_length=1, max_length=64)]  # noqa: N815


class OrderUpdate(BaseModel):
    """A status for an order to take."""

    orderId: str  # noqa: N815
    orderStatus: Annotated[str, Field(min_length=1, max_length=64)]  # noqa: N815


def create_app(uri: str, database: str = "orderflow") -> FastAPI:
    """Returns the peer for a database."""
    db = AsyncMongoClient(uri, w="majority", journal=True, tz_aware=True)[database]
    tasks: set[asyncio.Task] = set()

    @asynccontextmanager
    async def lifespan(_app):
        await db.orders.create_index([("userId", 1), ("createdAt", DESCENDING)])
        yield
        await asyncio.gather(*tasks)
        await db.client.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.post("/orders")
    async def create(new: NewOrder):
        now = datetime.now(UTC)
        order = {
            **new.model_dump(),
            "orderStatus": "Processing",
            "paymentStatus": "Processing",
            "createdAt": now,
            "updatedAt": now,
        }
        await db.orders.insert_one(order)
        task = asyncio.create_task(pay(db, order))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        text = "Create order success, payment processing"
        return json_response({"ok": True, "created": {"id": str(order["_id"])}, "payment": text}, 201)

    @app.put("/orders")
    async def update(body: OrderUpdate):
        changed = {"orderStatus": body.orderStatus, "updatedAt": datetime.now(UTC)}
        done = await db.orders.update_one({"_id": ObjectId(body.orderId)}, {"$set": changed})
        return json_response({"ok": True, "message": "Update order success"}) if done.matched_count else unknown()

    @app.get("/orders/one/{order_id}")
    async def find(order_id: str):
        order = await db.orders.find_one({"_id": ObjectId(order_id)})
        return json_response({"ok": True, "order": order_view(order)}) if order else unknown()

    @app.get("/orders/status/{order_id}")
    async def status(order_id: str):
        order = await db.orders.find_one({"_id": ObjectId(order_id)}, {"orderStatus": 1})
        return json_response({"ok": True, "orderStatus": order["orderStatus"]}) if order else unknown()

    @app.get("/orders/{user_id}")
    async def listing(user_id: str):
        found = db.orders.find({"userId": user_id}).sort("createdAt", DESCENDING).limit(PAGE)
        return json_response({"ok": True, "orders": [order_view(order) for order in await found.to_list()]})

    @app.exception_handler(InvalidId)
    async def invalid_id(_request: Request, _error: InvalidId):
        return unknown()

    return app


async def pay(db, order):
    """Stores the payment and the ledger entry, then updates the order."""
    captured = order["productId"] == "1"
    now = datetime.now(UTC)
    payment = {"_id": order["_id"], "userId": order["userId"], "amount": order["totalOrderAmount"]}
    await db.payments.insert_one({**payment, "status": "Captured" if captured else "Declined", "createdAt": now})
    entry = {"orderId": order["_id"], "answer": "captured" if captured else "declined", "at": now}
    await db.ledger.insert_one(entry)
    status = {"orderStatus": "Success" if captured else "Declined"}
    status["paymentStatus"] = "Captured" if captured else "Declined"
    await db.orders.update_one(
        {"_id": order["_id"], "orderStatus": "Processing"}, {"$set": {**status, "updatedAt": datetime.now(UTC)}}
    )


def json_response(content: dict[str, Any], status: int = 200) -> Response:
    """Returns a JSON response."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def unknown() -> Response:
    """Returns 404: no order has this id."""
    return json_response({"ok": False, "detail": "there is no such order"}, 404)


def order_view(order: dict[str, Any]) -> dict[str, Any]:
    """Returns an order as clients see it; orjson writes the times."""
    answer = {name: value for name, value in order.items() if name != "_id"}
    return {"id": str(order["_id"]), **answer}


if "MONGODB_URI" in os.environ:
    app = create_app(os.environ["MONGODB_URI"], os.environ.get("MONGODB_DATABASE", "orderflow"))
