"""The picture of the architecture shows the messages and handlers of the code."""

from xml.etree import ElementTree as ET

import pytest

from app.contracts.base import Event, Request, concrete_subclasses
from docs.picture import FILE, draw, wiring


@pytest.fixture(scope="module")
def bus():
    """The bus as create_app composes it."""
    return wiring()


def test_the_picture_is_up_to_date(bus):
    assert FILE.read_text() == draw(bus), "draw it again with `make picture`"


def test_it_shows_every_message(bus):
    shown = {element.text for element in ET.fromstring(draw(bus)).iter() if element.text}
    messages = {
        kind.__name__
        for base in (Request, Event)
        for kind in concrete_subclasses(base)
        if kind.__module__.startswith("app.contracts.")
    }
    assert messages <= shown


def test_every_request_has_a_handler_and_every_event_a_subscriber(bus):
    assert bus.handled_requests == {
        kind.__name__ for kind in concrete_subclasses(Request) if kind.__module__.startswith("app.contracts.")
    }
    assert bus.subscribers.keys() == {
        kind.__name__ for kind in concrete_subclasses(Event) if kind.__module__.startswith("app.contracts.")
    }
