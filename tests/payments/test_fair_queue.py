"""The queue of payments under lease: users take turns."""

from app.payments.fair_queue import FairQueue


def lease_all(payments, new_payment, *user_ids):
    return payments.insert([new_payment(user_id=user_id) for user_id in user_ids], len(user_ids))


def test_users_take_turns_and_each_ones_payments_keep_their_order(payments, new_payment):
    queue = FairQueue()
    a1, a2, a3, b1, b2 = lease_all(payments, new_payment, "a", "a", "a", "b", "b")
    for one in (a1, a2, a3, b1, b2):
        queue.put(one)
    assert (len(queue), queue.count_of("a"), queue.count_of("c")) == (5, 3, 0)
    assert [queue.get() for _ in range(6)] == [a1, b1, a2, b2, a3, None]
    assert len(queue) == 0


def test_clearing_gives_everything_that_waited(payments, new_payment):
    queue = FairQueue()
    waiting = lease_all(payments, new_payment, "a", "b", "a")
    for one in waiting:
        queue.put(one)
    cleared = queue.clear()
    assert sorted(one.payment.order_id for one in cleared) == sorted(one.payment.order_id for one in waiting)
    assert (len(queue), queue.get(), queue.count_of("a")) == (0, None, 0)
