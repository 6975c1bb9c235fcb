"""Who is told of changes: those that webhooks names, and everybody as long as it is not known."""

from types import SimpleNamespace

import pytest

from app.contracts.base import Unavailable
from app.contracts.webhooks import Subscribers
from app.observability import metrics
from app.observability.supervision import BackgroundThread, Watchdog
from app.orders.subscribers import MAX_AGE_SECONDS, SubscribedUsers
from tests.stopped_clock import StoppedClock


class Answers:
    """The module webhooks: answers with what it is given, or is away."""

    def __init__(self):
        self.reply: Subscribers | None = None

    def request(self, _request):
        if self.reply is None:
            raise Unavailable("webhooks did not answer in time")
        return self.reply


@pytest.fixture
def world():
    answers, clock = Answers(), StoppedClock()
    return SimpleNamespace(answers=answers, clock=clock, users=SubscribedUsers(answers, clock))


def known(*user_ids: str, everybody: bool = False) -> Subscribers:
    return Subscribers(all_users=everybody, user_ids=user_ids)


def test_everybody_counts_until_the_first_answer(world):
    world.users.refresh()
    assert "shop" in world.users
    world.answers.reply = known("other")
    world.users.refresh()
    assert "shop" not in world.users
    assert "other" in world.users


def test_everybody_counts_where_an_endpoint_is_for_all(world):
    world.answers.reply = known(everybody=True)
    world.users.refresh()
    assert "shop" in world.users


def test_an_answer_that_is_too_old_says_nothing_of_who_has_an_endpoint_by_now(world):
    world.answers.reply = known("other")
    world.users.refresh()
    world.answers.reply = None
    world.clock.now += MAX_AGE_SECONDS
    world.users.refresh()
    assert "shop" not in world.users
    world.clock.now += 0.1
    assert "shop" in world.users
    world.answers.reply = known("other")
    world.users.refresh()
    assert "shop" not in world.users


def test_an_answer_counts_from_when_it_was_asked_for(world):
    def slow(_request):
        world.clock.now += MAX_AGE_SECONDS + 1
        return known("other")

    world.answers.request = slow
    world.users.refresh()
    assert "shop" in world.users


def test_operators_see_that_webhooks_does_not_answer(world):
    world.users.set_gauges()
    assert metrics.webhooks_unreachable._value.get() == 1
    world.answers.reply = known()
    world.users.refresh()
    world.users.set_gauges()
    assert metrics.webhooks_unreachable._value.get() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_noticed_and_everybody_counts_again(world, monkeypatch, eventually):
    world.answers.reply = known("other")
    users = world.users
    users.refresh()

    def die(_thread):
        raise SystemExit

    monkeypatch.setattr(BackgroundThread, "_run", die)
    users.thread = BackgroundThread("orders-subscribers", users.run)
    users.start()
    eventually(lambda: users.thread.dead)
    assert Watchdog(60.0).failing([users.thread]) == [users.thread]
    world.clock.now += MAX_AGE_SECONDS + 0.1
    assert "shop" in users


def test_it_asks_again_and_again_and_ends_when_it_is_told(eventually):
    answers = Answers()
    answers.reply = known("other")
    users = SubscribedUsers(answers)
    users.start()
    eventually(lambda: "shop" not in users)
    users.stop(10.0)
    assert not users.thread.dead
