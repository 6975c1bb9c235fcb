"""Traces: one from the request to the order's update, across processes and a crash; nothing at all when off."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.main import create_app, runtime
from app.observability import stages, tracing
from app.observability.opentelemetry import OpenTelemetryTracer
from app.observability.stages import Stage
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers import make
from app.payments.providers.simulated import CAPABILITIES

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Forgetful:
    """A provider whose first call is lost on the way."""

    def __init__(self, real):
        self._real = real
        self.calls = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    capabilities = CAPABILITIES

    def find(self, call):
        return None

    def charge(self, call):
        self.calls += 1
        return (
            ProviderResponse(code=ResponseCode.UNKNOWN, reason="no word")
            if self.calls == 1
            else self._real.charge(call)
        )


@pytest.fixture
def exporter(monkeypatch):
    """Where the spans of this process go while traces are on."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = OpenTelemetryTracer(provider)
    monkeypatch.setattr(tracing, "tracer", tracer)
    monkeypatch.setattr(stages, "_subscribers", [tracer.record_stages])
    return kept


@pytest.fixture
def start(exporter, settings):
    """Make an application that is traced."""
    made = []

    def one(relay_lease=30.0, **changes):
        # On a busy machine a short lease ends, and a sweep delivers an event again: with a link, and a second span.
        app = create_app(replace(settings, log_level="error", relay_lease=relay_lease), **changes)
        runtime(app).prepare()
        made.append(app)
        return app

    yield one
    for app in made:
        runtime(app).stop()


def spans_of(exporter, order_id):
    """The spans of an order's stages, by name."""
    found = [span for span in exporter.get_finished_spans() if span.attributes.get("orderflow.order_id") == order_id]
    return {span.name: span for span in sorted(found, key=lambda span: span.start_time)}


def trace_of(span):
    return f"{span.context.trace_id:032x}"


def post(app, body):
    answer = app.test_client().post("/orders", json=body, headers=HEADERS)
    assert answer.status_code == 201
    return answer.json["created"]["id"], answer


def test_one_trace_has_the_nine_stages_and_the_request(start, exporter, new_order, eventually):
    app = start()
    runtime(app).start()
    order_id, _ = post(app, new_order())
    eventually(lambda: len(spans_of(exporter, order_id)) == len(Stage))
    spans = spans_of(exporter, order_id)
    assert set(spans) == {str(stage) for stage in Stage}
    [request] = [span for span in exporter.get_finished_spans() if span.name == "POST /orders"]
    [asked] = [span for span in exporter.get_finished_spans() if span.name == "CreateOrder"]
    assert {trace_of(span) for span in (*spans.values(), request, asked)} == {TRACE}
    assert f"{request.parent.span_id:016x}" == PARENT
    assert asked.parent.span_id == request.context.span_id
    assert spans[Stage.ORDER_STORED].parent.span_id == asked.context.span_id
    assert request.attributes["http.response.status_code"] == 201
    assert spans[Stage.PAYMENT_PROCESSED].attributes.items() >= {
        ("orderflow.attempt", 1),
        ("orderflow.answer", "captured"),
    }
    assert spans[Stage.ORDER_UPDATED].attributes["orderflow.batch_size"] >= 1
    assert not any(span.links for span in spans.values())


def test_a_trace_goes_on_in_another_process_after_a_crash(start, exporter, new_order, eventually):
    order_id, _ = post(start(relay_lease=0.5), new_order())  # The first dies here: it never hands the event on.
    assert Stage.HANDED_TO_PAYMENTS not in spans_of(exporter, order_id)
    runtime(start()).start()
    eventually(lambda: Stage.ORDER_UPDATED in spans_of(exporter, order_id))
    spans = spans_of(exporter, order_id)
    assert {trace_of(span) for span in spans.values()} == {TRACE}
    [link] = spans[Stage.HANDED_TO_PAYMENTS].links
    assert (f"{link.context.trace_id:032x}", dict(link.attributes)) == (TRACE, {"orderflow.link_reason": "sweep"})


def test_a_repeated_call_is_linked_to_the_one_before(start, exporter, new_order, eventually):
    app = start(make_provider=lambda given, store: Forgetful(make(given, store)))
    runtime(app).start()
    order_id, _ = post(app, new_order())

    def processed():
        return [span for span in exporter.get_finished_spans() if span.name == Stage.PAYMENT_PROCESSED]

    # The order may be updated before the call's own stage is recorded.
    eventually(lambda: Stage.ORDER_UPDATED in spans_of(exporter, order_id) and len(processed()) >= 2)
    calls = processed()
    first, second = sorted(calls, key=lambda span: span.attributes["orderflow.attempt"])
    assert [span.attributes["orderflow.answer"] for span in (first, second)] == ["unknown", "captured"]
    assert not first.links
    [link] = second.links
    assert (link.context.span_id, dict(link.attributes)) == (first.context.span_id, {"orderflow.link_reason": "retry"})


def test_a_refund_belongs_to_the_trace_of_who_asked_for_it(start, exporter, new_order, eventually):
    app = start()
    runtime(app).start()
    order_id, _ = post(app, new_order())
    eventually(lambda: len(spans_of(exporter, order_id)) == len(Stage))
    exporter.clear()
    other = TRACE[::-1]
    answer = app.test_client().put(
        "/orders",
        json={"orderId": order_id, "orderStatus": "Cancelled"},
        headers={"traceparent": f"00-{other}-{PARENT}-01"},
    )
    assert answer.status_code == 200
    # A busy machine may deliver an event of the first request again by now; that span is in the first trace.
    wanted = {Stage.GATEWAY_RECEIVED, Stage.PAYMENT_PROCESSED, Stage.HANDED_TO_ORDERS}
    eventually(lambda: wanted <= {span.name for span in exporter.get_finished_spans() if trace_of(span) == other})
    [call] = [span for span in exporter.get_finished_spans() if span.name == Stage.PAYMENT_PROCESSED]
    assert (trace_of(call), call.attributes["orderflow.call"]) == (other, "refund")


def test_a_refusal_is_noted_and_a_failure_marked(start, exporter):
    app = start()
    assert app.test_client().get("/orders/one/692000000000000000000000").status_code == 404
    [asked] = [span for span in exporter.get_finished_spans() if span.name == "FindOrder"]
    assert asked.attributes["orderflow.error_code"] == "order_not_found"
    [request] = [span for span in exporter.get_finished_spans() if span.name == "GET /orders/one/<order_id>"]
    assert request.attributes["http.response.status_code"] == 404
    assert request.status.is_ok or request.status.is_unset


@pytest.mark.parametrize("given", ["", "nonsense", "00-0-0-00", "ff" * 500])
def test_without_a_trace_that_can_be_read_a_new_one_begins(start, exporter, given):
    assert start().test_client().get("/healthz", headers={"traceparent": given}).status_code == 200
    [span] = exporter.get_finished_spans()
    assert span.parent is None


def test_what_is_not_sampled_makes_no_spans(start, exporter, new_order, eventually, database):
    app = start()
    runtime(app).start()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    app.test_client().post("/orders", json=new_order(), headers=headers)
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}))
    assert not exporter.get_finished_spans()


def test_nobody_is_told_of_the_trace(start, new_order, eventually, database, monkeypatch):
    heard = []
    monkeypatch.setattr(
        stages,
        "_subscribers",
        [*stages._subscribers, lambda stage, _at, lines: heard.append((stage, [dict(line) for line in lines]))],
    )
    app = start()
    runtime(app).start()
    order_id, answer = post(app, new_order())
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}))
    shown = [app.test_client().get(f"/orders/one/{order_id}{rest}") for rest in ("", "/events", "/explain")]
    for one in (answer, *shown):
        assert TRACE not in one.text
        assert TRACE not in str(one.headers)
    assert heard
    assert TRACE not in str(heard)


OFF = """
import json, sys
from app.config import Settings
from app.main import create_app, runtime
app = create_app(Settings(mongodb_uri=sys.argv[1], database=sys.argv[2], log_level="error", request_deadline=10.0))
runtime(app).prepare()
runtime(app).start()
client = app.test_client()
body = {"userId": "u", "productId": "1", "productName": "x", "totalOrderAmount": "RM 9"}
answer = client.post("/orders", json=body, headers={"traceparent": sys.argv[3], "Prefer": "wait=20"})
runtime(app).stop()
print(json.dumps([answer.json["order"]["orderStatus"], [name for name in sys.modules if "opentelemetry" in name]]))
"""


def test_off_nothing_is_loaded_and_nothing_carried(settings, database):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        OFF,
        settings.mongodb_uri,
        settings.database,
        HEADERS["traceparent"],
    ]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == ["Success", []], done.stderr
    stored = [*database.orders.find(), *database.payments.find()]
    assert len(stored) == 2
    assert "traceparent" not in str(stored)


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_says_whether_there_are_traces(environ, on):
    assert tracing.enabled(environ) is on


MADE = """
import sys
if "without" in sys.argv:
    sys.modules["opentelemetry"] = None
from app.observability import tracing
from app.config import BadSettings
from app.main import create_app
try:
    print(create_app().test_client().get("/healthz").status_code, type(tracing.tracer).__name__)
except BadSettings as exc:
    print(exc)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "200 OpenTelemetryTracer"),
        (["without"], "OTEL_… enables traces, which need a library: pip install orderflow[otel]"),
    ],
)
def test_on_it_starts_or_says_what_is_missing(tmp_path, words, said):
    environ = {
        "PYTHONPATH": str(ROOT),
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-c", MADE, *words]
    environ |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "ORDERFLOW_DATA": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert said in done.stdout, done.stdout + done.stderr
