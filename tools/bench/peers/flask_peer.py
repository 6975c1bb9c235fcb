"""The plain peer: Flask, marshmallow and PyMongo, payments on a thread pool; one durable command for each write."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from bson import ObjectId
from bson.errors import InvalidId
from flask import Flask, jsonify, request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from pymongo import DESCENDING, MongoClient
from werkzeug.exceptions import HTTPException

PAYMENT_THREADS = 16
PAGE = 100


class NewOrder(Schema):
    """An order to place."""

    class Meta:
        unknown = EXCLUDE

    userId = fields.String(required=True, validate=validate.Length(1, 128))  # noqa: N815 - the member's name
    productId = fields.String(required=True, validate=validate.Length(1, 128))  # noqa: N815
    productName = fields.String(required=True, validate=validate.Length(1, 512))  # noqa: N815
    totalOrderAmount = fields.String(required=True, validate=validate.Length(1, 64))  # noqa: N815


class OrderUpdate(Schema):
    """A status for an order to take."""

    class Meta:
        unknown = EXCLUDE

    orderId = fields.String(required=True)  # noqa: N815
    orderStatus = fields.String(required=True, validate=validate.Length(1, 64))  # noqa: N815


NEW_ORDER, ORDER_UPDATE = NewOrder(), OrderUpdate()


def create_app(uri: str, database: str = "orderflow") -> Flask:
    """Returns the peer for a database."""
    app = Flask(__name__)
    db = MongoClient(uri, w="majority", journal=True, tz_aware=True)[database]
    db.orders.create_index([("userId", 1), ("createdAt", DESCENDING)])
    pool = ThreadPoolExecutor(PAYMENT_THREADS)
    install_errors(app)

    @app.post("/orders")
    def create():
        now = datetime.now(UTC)
        order = {
            **NEW_ORDER.load(request.get_json()),
            "orderStatus": "Processing",
            "paymentStatus": "Processing",
            "createdAt": now,
            "updatedAt": now,
        }
        db.orders.insert_one(order)
        pool.submit(pay, db, order)
        text = "Create order success, payment processing"
        return jsonify(ok=True, created={"id": str(order["_id"])}, payment=text), 201

    @app.put("/orders")
    def update():
        body = ORDER_UPDATE.load(request.get_json())
        changed = {"orderStatus": body["orderStatus"], "updatedAt": datetime.now(UTC)}
        if db.orders.update_one({"_id": ObjectId(body["orderId"])}, {"$set": changed}).matched_count == 0:
            return unknown()
        return jsonify(ok=True, message="Update order success")

    @app.get("/orders/one/<order_id>")
    def find(order_id):
        order = db.orders.find_one({"_id": ObjectId(order_id)})
        return jsonify(ok=True, order=order_view(order)) if order else unknown()

    @app.get("/orders/status/<order_id>")
    def status(order_id):
        order = db.orders.find_one({"_id": ObjectId(order_id)}, {"orderStatus": 1})
        return jsonify(ok=True, orderStatus=order["orderStatus"]) if order else unknown()

    @app.get("/orders/<user_id>")
    def listing(user_id):
        found = db.orders.find({"userId": user_id}).sort("createdAt", DESCENDING).limit(PAGE)
        return jsonify(ok=True, orders=[order_view(order) for order in found])

    return app


def pay(db, order):
    """Stores the payment and the ledger entry, then updates the order."""
    captured = order["productId"] == "1"
    now = datetime.now(UTC)
    payment = {"_id": order["_id"], "userId": order["userId"], "amount": order["totalOrderAmount"]}
    db.payments.insert_one({**payment, "status": "Captured" if captured else "Declined", "createdAt": now})
    db.ledger.insert_one({"orderId": order["_id"], "answer": "captured" if captured else "declined", "at": now})
    status = {"orderStatus": "Success" if captured else "Declined"}
    status["paymentStatus"] = "Captured" if captured else "Declined"
    db.orders.update_one(
        {"_id": order["_id"], "orderStatus": "Processing"}, {"$set": {**status, "updatedAt": datetime.now(UTC)}}
    )


def install_errors(app):
    """Answers errors in JSON."""

    @app.errorhandler(ValidationError)
    def invalid(error):
        return jsonify(ok=False, errors=error.messages), 422

    @app.errorhandler(InvalidId)
    def invalid_id(_error):
        return unknown()

    @app.errorhandler(HTTPException)
    def refused(error):
        return jsonify(ok=False, detail=error.description), error.code


def unknown():
    """Returns 404: no order has this id."""
    return jsonify(ok=False, detail="there is no such order"), 404


def order_view(order):
    """Returns an order as clients see it."""
    answer = {name: value for name, value in order.items() if name != "_id"}
    answer["id"] = str(order["_id"])
    answer["createdAt"] = order["createdAt"].isoformat()
    answer["updatedAt"] = order["updatedAt"].isoformat()
    return answer


if "MONGODB_URI" in os.environ:
    app = create_app(os.environ["MONGODB_URI"], os.environ.get("MONGODB_DATABASE", "orderflow"))
