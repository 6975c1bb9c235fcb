"""The contracts: every message is plain, frozen data that survives JSON both ways."""

import json
import re
import subprocess
import sys
import types
import typing

import msgspec
import pytest

from app.contracts.base import ApplicationError, Event, Money, Reply, Request, concrete_subclasses

PLAIN = {str: "text €", int: 2**52 + 1, bool: True}


def declared(kind: type) -> list[type]:
    """The messages of this kind; what other tests define for themselves is none of them."""
    return [message for message in concrete_subclasses(kind) if message.__module__.startswith("app.contracts.")]


REQUESTS, EVENTS, REPLIES = declared(Request), declared(Event), declared(Reply)
MESSAGES = [*REQUESTS, *EVENTS, *REPLIES]
every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
every_request = pytest.mark.parametrize("message", REQUESTS, ids=lambda message: message.__name__)


def sample(kind):
    """A value of an annotated type. Raises TypeError for what may not be in a message."""
    if kind in PLAIN:
        return PLAIN[kind]
    if typing.get_origin(kind) is tuple:
        inner, dots = typing.get_args(kind)
        if dots is not ...:
            raise TypeError(f"{kind}: tuples in messages have one type and any length")
        return (sample(inner), sample(inner))
    if kind == dict[str, str]:
        return {PLAIN[str]: "a value"}
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[-1]
    if isinstance(kind, types.UnionType) and types.NoneType in typing.get_args(kind):
        [inner] = set(typing.get_args(kind)) - {types.NoneType}
        return sample(inner)
    if kind in MESSAGES or kind is Money:
        return sample_of(kind)
    raise TypeError(f"{kind} is not plain data")


def sample_of(message: type):
    hints = typing.get_type_hints(message)
    return message(**{name: sample(hints[name]) for name in message.__struct_fields__})


def test_there_are_messages_of_every_kind():
    assert {"CreateOrder", "UpdateOrder", "FindOrder", "CheckOrderStatus", "ListOrders"} <= names(REQUESTS)
    assert {"OrderCreated", "OrderCancelled", "PaymentCaptured", "PaymentDeclined"} <= names(EVENTS)
    assert {"PaymentRefunded", "PaymentVoided"} <= names(EVENTS)
    assert len(REPLIES) >= 4


def names(messages) -> set[str]:
    return {message.__name__ for message in messages}


def test_no_two_messages_share_a_name():
    assert len(names(MESSAGES)) == len(MESSAGES)


@every_message
def test_a_message_is_frozen_and_takes_its_members_by_name(message):
    assert message.__struct_config__.frozen
    values = msgspec.structs.astuple(sample_of(message))
    if values:
        with pytest.raises(TypeError, match="positional"):
            message(*values)


@every_message
def test_a_message_cannot_be_changed(message):
    sent = sample_of(message)
    for name in message.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(sent, name, getattr(sent, name))


@every_message
def test_a_message_survives_json_both_ways(message):
    sent = sample_of(message)
    text = json.dumps(msgspec.to_builtins(sent), ensure_ascii=False)
    assert msgspec.convert(json.loads(text), message) == sent


def has_a_map(message: type) -> bool:
    """Whether a message, or one within it, has a map: it is compared and never looked up by its value."""
    annotations = [str(hint) for hint in typing.get_type_hints(message).values()]
    return any("dict[" in text or "OrderView" in text for text in annotations)


@pytest.mark.parametrize(
    "message", [one for one in MESSAGES if not has_a_map(one)], ids=lambda message: message.__name__
)
def test_a_message_without_a_map_can_be_hashed(message):
    assert hash(sample_of(message)) == hash(sample_of(message))


@every_message
def test_a_message_says_in_a_sentence_what_it_means(message):
    assert vars(message)["__doc__"]


@every_request
def test_a_request_is_owned_by_the_module_of_its_file_and_names_its_reply(message):
    assert f"app.contracts.{message.owner}" == message.__module__
    assert message.reply in REPLIES
    [base] = message.__orig_bases__
    assert typing.get_args(base) == (message.reply,)


@every_request
def test_owner_and_reply_are_not_sent_along(message):
    assert {"owner", "reply"}.isdisjoint(message.__struct_fields__)


@every_request
def test_a_request_is_named_in_the_imperative(message):
    first_word = re.match("[A-Z][a-z]+", message.__name__).group()
    assert not first_word.endswith(("ed", "ing"))


@pytest.mark.parametrize("message", EVENTS, ids=lambda message: message.__name__)
def test_an_event_is_named_in_the_past_tense_and_says_whose_it_is(message):
    assert message.__name__.endswith("ed")
    assert {"event_id", "order_id", "sequence", "request_id", "at"} <= {*message.__struct_fields__}


def refusals() -> list[type[ApplicationError]]:
    return [
        refusal for refusal in concrete_subclasses(ApplicationError) if refusal.__module__.startswith("app.contracts.")
    ]


def test_every_refusal_has_a_code_of_its_own():
    codes = [vars(refusal).get("code") for refusal in refusals()]
    assert all(codes)
    assert len({*codes, ApplicationError.code}) == len(codes) + 1


@pytest.mark.parametrize("refusal", refusals(), ids=lambda refusal: refusal.__name__)
def test_a_refusal_carries_a_sentence_and_facts(refusal):
    raised = refusal("it cannot be", allowed=["Cancelled"], retry_after=1)
    assert (raised.detail, str(raised)) == ("it cannot be", "it cannot be")
    assert raised.members == {"allowed": ["Cancelled"], "retry_after": 1}


def test_only_messages_that_are_sent_as_themselves_count_as_concrete():
    class Top:
        pass

    class Middle(Top):
        pass

    class Left(Middle):
        pass

    class Right(Top):
        pass

    assert set(concrete_subclasses(Top)) == {Left, Right}
    assert list(concrete_subclasses(Right)) == []


FIRST_USE_BY_MANY = """
import sys, threading
from datetime import UTC, datetime
sys.setswitchinterval(1e-6)
from app.messaging.outbox import decode_event
from app.payments.documents import _payment
event = {"type": "PaymentCaptured", "event_id": "e", "order_id": "o", "sequence": 1, "request_id": "r", "at": 1,
         "reference": "x", "took_ms": 1}
payment = {"_id": "o", "requestId": "r", "userId": "u", "productId": "p", "requestedAt": datetime.now(UTC),
           "total": {"value": 1, "currency": "MYR"}}
begin = threading.Barrier(8)
def use(number):
    begin.wait()
    decode_event(event) if number % 2 else _payment(payment)
threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
"""


def test_many_threads_may_use_a_type_for_the_first_time_at_once():
    """Where msgspec analyses a type in two threads at once, three of four processes end with a segmentation fault."""
    command = [sys.executable, "-c", FIRST_USE_BY_MANY]
    codes = [subprocess.run(command, check=False, timeout=60).returncode for _ in range(5)]
    assert codes == [0] * 5
