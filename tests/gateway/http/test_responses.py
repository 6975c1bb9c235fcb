"""JSON responses are complete without werkzeug's help."""

import pytest
from flask import Flask

from app.gateway.http.responses import json_response


@pytest.fixture
def client():
    app = Flask("app")
    closed = []

    @app.get("/closing")
    def closing():
        response = json_response({"ok": True})
        response.call_on_close(lambda: closed.append(True))
        return response

    app.add_url_rule("/", "plain", lambda: json_response({"ok": True, "text": "ü"}, 201, Location="/there"))
    app.add_url_rule("/split", "split", lambda: json_response({"ok": True}, ETag="a\r\nSet-Cookie: b"))
    app.extensions["closed"] = closed
    return app.test_client()


def test_status_headers_and_body_arrive(client):
    answer = client.get("/")
    assert (answer.status, answer.json) == ("201 CREATED", {"ok": True, "text": "ü"})
    assert dict(answer.headers) == {
        "Location": "/there",
        "Content-Type": "application/json",
        "Content-Length": str(len(answer.data)),
    }


def test_a_head_request_gets_the_length_and_no_body(client):
    answer = client.head("/")
    assert answer.data == b""
    assert answer.headers["Content-Length"] == str(len(client.get("/").data))


def test_what_was_to_run_after_the_response_runs(client):
    client.get("/closing").close()
    assert client.application.extensions["closed"] == [True]


def test_a_header_cannot_begin_another_one(client):
    client.application.testing = True
    with pytest.raises(ValueError, match="newline"):
        client.get("/split")
