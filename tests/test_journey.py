"""The whole way of an order, from HTTP to the provider's books and back."""


def settled(client, order_id, status, payment=None):
    def look():
        order = client.get(f"/orders/one/{order_id}").json["order"]
        return order["orderStatus"] == status and payment in (None, order["paymentStatus"]) and order

    return look


def test_an_order_for_a_good_product_becomes_success(live, place, eventually, database):
    order_id = place(live, productId="1")
    order = eventually(settled(live, order_id, "Success", "Captured"))
    assert order["total"] == {"value": 9900, "currency": "MYR"}
    charges = list(database.ledger.find({"orderId": order_id}))
    assert [(charge["answer"], charge["value"]) for charge in charges] == [("captured", 9900)]


def test_an_order_for_a_declined_product_becomes_declined(live, place, eventually, database):
    order_id = place(live, productId="2")
    eventually(settled(live, order_id, "Declined", "Declined"))
    assert database.ledger.count_documents({"orderId": order_id, "answer": "captured"}) == 0


def test_cancelled_after_success_is_refunded_once(live, place, eventually, database):
    order_id = place(live, productId="1")
    eventually(settled(live, order_id, "Success"))
    assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    eventually(settled(live, order_id, "Cancelled", "Refunded"))
    [charge] = database.ledger.find({"orderId": order_id})
    assert (charge["value"], charge["refunded"], len(charge["refunds"])) == (9900, 9900, 1)
