"""docs/migrating.md: its script copies orders as the old system stored them, and its tables name what exists."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from bson import ObjectId

from app.gateway.http.problem_catalogue import PROBLEMS
from app.main import runtime
from app.observability.stages import Stage
from app.orders.order import STATUSES

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/migrating.md").read_text()
PLACED = datetime(2022, 1, 16, 9, 30, 0, 123000, UTC)


def stored(**changes):
    """An order as mongoose stored it: its payment has settled a moment after it was placed."""
    order = {
        "userId": "1234",
        "productId": "1",
        "productName": "Chicken wing",
        "totalOrderAmount": "RM 99",
        "orderStatus": "Success",
        "paymentStatus": "Processing",
        "_id": ObjectId(),
        "created_at": PLACED,
        "updated_at": PLACED + timedelta(milliseconds=41),
        "__v": 0,
        **changes,
    }
    return {name: value for name, value in order.items() if value is not ...}


@pytest.fixture
def old(mongo):
    """The collection of the old system."""
    name = f"old_{uuid4().hex}"
    yield mongo[name].orders
    mongo.drop_database(name)


@pytest.fixture
def copy(old, app, settings, tmp_path):
    """Run the script of the page, as the page says, with custom statuses; returns its exit code and its lines."""
    [script] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "copy_orders.py").write_text(script)
    old_uri = settings.mongodb_uri.replace("/?", f"/{old.database.name}?authSource=admin&")
    environ = {"MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, "PYTHONPATH": str(ROOT)}

    def run(*custom):
        command = [sys.executable, tmp_path / "copy_orders.py", old_uri, *custom]
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.fixture
def examine(app):
    """What the doctor finds."""
    return lambda: app.test_cli_runner().invoke(args=["doctor", "--json", "--pause", "0"]).output


def content(database):
    """All documents of the modules."""
    return {name: list(database[name].find().sort("_id")) for name in ("orders", "payments", "ledger")}


SETTLED = (
    ("Success", "1", "Success", "Captured"),
    ("Declined", "2", "Declined", "Declined"),
    ("Cancelled", "1", "Cancelled", "Voided"),
    ("Cancelled", "2", "Cancelled", "Voided"),
    ("Confirm", "1", "Confirm", "Captured"),
)


def test_settled_orders_are_copied_with_their_ids_and_times_and_every_invariant_holds(old, copy, client, examine):
    ids = {}
    for number, (status, product, *_) in enumerate(SETTLED):
        at = PLACED + timedelta(seconds=number)
        order = stored(orderStatus=status, productId=product, created_at=at, updated_at=at + timedelta(seconds=1))
        ids[number] = str(old.insert_one(order).inserted_id)
    assert copy() == (0, ["copied 5, already there 0, not copied 0"])
    for number, (_, product, status, payment) in enumerate(SETTLED):
        order = client.get(f"/orders/one/{ids[number]}").json["order"]
        taken = {"value": 9900 if payment == "Captured" else 0, "currency": "MYR"}
        assert (
            order.items()
            >= {
                "id": ids[number],
                "userId": "1234",
                "productId": product,
                "productName": "Chicken wing",
                "totalOrderAmount": "RM 99",
                "total": {"value": 9900, "currency": "MYR"},
                "orderStatus": status,
                "paymentStatus": payment,
                "createdAt": f"2022-01-16T09:30:0{number}.123Z",
                "updatedAt": f"2022-01-16T09:30:0{number + 1}.123Z",
                "captured": taken,
            }.items()
        )
        assert client.get(f"/orders/status/{ids[number]}").json == {"ok": True, "orderStatus": status}
        explained = client.get(f"/orders/one/{ids[number]}/explain").json
        assert "since the old system updated it at 2022-01-16T09:30:0" in str(explained)
    assert [order["id"] for order in client.get("/orders/1234").json["orders"]] == [ids[n] for n in (4, 3, 2, 1, 0)]
    assert '"state":"healthy"' in examine(), examine()


def test_a_second_run_changes_nothing_and_the_old_collection_stays(old, copy, database):
    old.insert_many([stored(), stored(orderStatus="Declined", productId="2"), stored(orderStatus="Processing Payment")])
    before = list(old.find())
    code, lines = copy()
    assert (code, lines[-1]) == (1, "copied 2, already there 0, not copied 1")
    first = content(database)
    code, lines = copy()
    assert (code, lines[-1]) == (1, "copied 0, already there 2, not copied 1")
    assert content(database) == first
    assert list(old.find()) == before


@pytest.mark.parametrize("name", ["ledger", "payments", "orders"])
def test_a_run_that_died_between_two_writes_is_completed_by_the_next(old, copy, database, examine, name):
    old.insert_one(stored())
    copy()
    whole = content(database)
    # The documents are written in this order, so those from one on are missing.
    for missing in ("ledger", "payments", "orders")[("ledger", "payments", "orders").index(name) :]:
        database[missing].delete_many({})
    assert copy() == (0, ["copied 1, already there 0, not copied 0"])
    assert content(database) == whole
    assert '"state":"healthy"' in examine()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"orderStatus": "Processing Payment"}, "no result of its payment has arrived"),
        ({"orderStatus": "12345", "updated_at": PLACED}, "no result of its payment has arrived"),
        ({"updated_at": PLACED}, "it is 'Success', and no result of its payment has arrived"),
        (
            {"orderStatus": "Done happy good day"},
            "'Done happy good day': name this status if all orders with it are paid",
        ),
        ({"productId": "2"}, "the old system declines product '2'"),
        ({"productId": "2", "orderStatus": "Confirm"}, "the old system declines product '2'"),
        ({"totalOrderAmount": "99"}, "totalOrderAmount"),
        ({"totalOrderAmount": "a lot"}, "totalOrderAmount"),
        ({"userId": "u" * 129}, "userId"),
        ({"userId": ...}, "it lacks userId"),
        ({"created_at": ..., "orderStatus": ...}, "it lacks created_at, orderStatus"),
        ({"_id": "mine"}, "it lacks an ObjectId"),
    ],
)
def test_what_is_unknown_or_half_made_is_said_and_not_guessed(old, copy, database, changes, said):
    order_id = old.insert_one(stored(**changes)).inserted_id
    code, [line, last] = copy()
    assert (code, last) == (1, "copied 0, already there 0, not copied 1")
    assert line.startswith(f"{order_id}: not copied: ")
    assert said in line
    assert content(database) == {"orders": [], "payments": [], "ledger": []}


def test_a_custom_status_that_is_named_is_copied_as_paid(old, copy, client, examine):
    done = old.insert_one(stored(orderStatus="Done happy good day")).inserted_id
    old.insert_many([stored(orderStatus="Shipped"), stored(orderStatus="captured"), stored(orderStatus="processing")])
    code, lines = copy("Done happy good day", "captured", "processing")
    assert (code, lines[-1]) == (1, "copied 1, already there 0, not copied 3")
    order = client.get(f"/orders/one/{done}").json["order"]
    assert (order["orderStatus"], order["paymentStatus"]) == ("Done happy good day", "Captured")
    assert '"state":"healthy"' in examine()


def test_copied_orders_go_on_as_any_other(old, copy, app, client, eventually, examine):
    ids = [str(old.insert_one(stored(orderStatus=status)).inserted_id) for status in ("Success", "Confirm", "Success")]
    copy()
    runtime(app).start()

    def order(order_id):
        return client.get(f"/orders/one/{order_id}").json["order"]

    assert client.put("/orders", json={"orderId": ids[0], "orderStatus": "Confirm"}).status_code == 200
    assert client.put("/orders", json={"orderId": ids[1], "orderStatus": "Cancelled"}).status_code == 200
    assert client.post(f"/orders/one/{ids[2]}/refunds", json={"amount": "RM 9"}).status_code in (201, 202)
    eventually(lambda: order(ids[1])["paymentStatus"] == "Refunded")
    eventually(lambda: order(ids[2])["refunded"]["value"] == 900)
    assert order(ids[0])["orderStatus"] == "Confirm"
    copy()
    assert order(ids[1])["orderStatus"] == "Cancelled"
    eventually(lambda: '"state":"healthy"' in examine())


def test_an_order_that_changed_in_the_old_system_after_the_copy_is_said(old, copy, client):
    order_id = old.insert_one(stored()).inserted_id
    copy()
    old.update_one({"_id": order_id}, {"$set": {"orderStatus": "Cancelled", "updated_at": PLACED + timedelta(days=1)}})
    code, [line, last] = copy()
    assert (code, last) == (1, "copied 0, already there 0, not copied 1")
    assert "changed in the old system after it had been copied" in line
    assert client.get(f"/orders/status/{order_id}").json["orderStatus"] == "Success"


# --- what the tables name ---


def section(title):
    """The text below a heading of the page."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_codes_of_errors_exist():
    codes = set(re.findall(r"\d{3} `([a-z_]+)`", PAGE))
    assert len(codes) > 8
    assert codes <= PROBLEMS.keys()
    for status, code in re.findall(r"(\d{3}) `([a-z_]+)`", PAGE):
        assert PROBLEMS[code].status == int(status), code


def test_the_settings_exist():
    settings = set(re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    rows = re.findall(r"^\| `.+?\| (.+) \|$", section("Settings"), re.MULTILINE)
    named = set(re.findall(r"`([A-Z_]+)`", " ".join(rows)))
    assert named == {"PORT", "MONGODB_URI", "MONGODB_DATABASE", "MODULES", "BUS_URL"}
    assert named | set(re.findall(r"`([A-Z_]+)=", PAGE)) <= settings


def test_every_stage_is_named_beside_a_line_of_the_old_console():
    rows = re.findall(r"^\| `[^`]+` \| (.+) \|$", section("Console lines"), re.MULTILINE)
    assert {row for row in rows if row in {*Stage}} == {*Stage}


def test_every_status_is_named():
    assert all(f"`{status}`" in section("Statuses") for status in STATUSES)
