"""The log: one line an event, JSON for machines, readable on a terminal, the libraries' lines included."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from app.observability import stages
from app.observability.stages import Stage, record_stage

pytestmark = pytest.mark.extended

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PRELUDE = """
import logging
from app.observability.logging import configure, log, start_writing, stop_writing, writer
from app.observability.stages import Stage, record_stage
configure({log_format!r}, {log_level!r})
library = logging.getLogger("library")
def fail():
    password = "hunter2"
    raise ValueError("first line\\nsecond line")
"""
STORED = (
    'record_stage(Stage.ORDER_STORED, module="orders", order_id="o-1", request_id="r-1", took_ms=1.23456, version=7)\n'
)


def said(program: str, log_format: str = "json", log_level: str = "info") -> str:
    """What a new process says whose log is set up like this."""
    source = PRELUDE.format(log_format=log_format, log_level=log_level) + program
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def lines(program: str, log_level: str = "info") -> list[dict]:
    """The same, as JSON."""
    return [json.loads(line) for line in said(program, log_level=log_level).removesuffix("\n").split("\n")]


def test_there_are_nine_stages_of_nine_names():
    assert len(list(Stage)) == 9
    # An enumeration makes a repeated value an alias, which its list leaves out.
    assert len(Stage.__members__) == 9


def test_the_stages_are_in_the_order_in_which_they_happen():
    way = list(Stage)
    assert (way[0], way[-1]) == (Stage.GATEWAY_RECEIVED, Stage.ORDER_UPDATED)
    assert way.index(Stage.HANDED_TO_PAYMENTS) < way.index(Stage.PAYMENT_PROCESSED) < way.index(Stage.HANDED_TO_ORDERS)


def test_a_stage_is_one_line_of_json():
    [line] = lines(STORED)
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert line == {
        "event": "order stored",
        "level": "info",
        "module": "orders",
        "order_id": "o-1",
        "request_id": "r-1",
        "took_ms": 1.23,
        "version": 7,
    }


def test_every_stage_is_logged_by_its_name():
    program = 'for stage in Stage: record_stage(stage, module="m", order_id="o", request_id="r", took_ms=0)'
    assert [line["event"] for line in lines(program)] == [stage.value for stage in Stage]


def test_whatever_is_in_a_value_an_event_stays_one_line():
    [line] = lines('log.info("odd", text="two\\nlines\\u2028\\x00\\x1b[31m \\U0001f642")')
    assert line["text"] == "two\nlines\u2028\x00\x1b[31m \U0001f642"


def test_what_json_does_not_know_is_told_as_text():
    [line] = lines('import pathlib; log.info("odd", path=pathlib.PurePosixPath("/x"), kind={1, 1}, raw=b"x")')
    assert (line["path"], line["kind"], line["raw"]) == ("/x", "{1}", "b'x'")


def test_a_message_is_told_with_its_members():
    message = 'FindOrder(request_id="r", order_id="o", on_behalf_of="u")'
    [line] = lines(f'from app.contracts.orders import FindOrder; log.info("asked", message={message})')
    told = {"request_id": "r", "traceparent": "", "order_id": "o", "on_behalf_of": "u", "with_next_action": False}
    assert line["message"] == told


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("kind", "withheld"),
    [
        ("orders.NextActionView", ("url", "client_secret")),
        ("orders.CreateOrder", ("payment_method",)),
        ("orders.OrderCreated", ("payment_method",)),
        ("payments.PaymentActionRequired", ("action_url", "client_secret")),
    ],
)
def test_what_is_withheld_of_a_message_is_not_told(log_format, kind, withheld):
    secrets = dict.fromkeys(withheld, "hush")
    message = f"{kind}(**dict.fromkeys({kind}.__struct_fields__, 'told') | {secrets})"
    program = f"from app.contracts import orders, payments; log.error('failed', message={message}, nested=[{message}])"
    output = said(program, log_format)
    assert output.count("told") > 2
    assert "hush" not in output


@pytest.mark.parametrize("value", ["2 ** 70", "'\\ud800'", "{1: 2}"])
def test_no_value_is_so_odd_that_telling_it_fails(value):
    [line] = lines(f'log.warning("odd", value={value})')
    assert line["event"] == "odd"


def test_the_libraries_lines_come_out_as_json_too():
    [line] = lines('library.warning("slow by %d ms", 7, extra={"host": "db"})')
    del line["timestamp"]
    assert line == {"event": "slow by 7 ms", "level": "warning", "host": "db"}


@pytest.mark.parametrize("logger", ["log", "library"])
def test_an_exception_is_told_on_one_line_with_its_traceback(logger):
    [line] = lines(f'try:\n    fail()\nexcept ValueError:\n    {logger}.exception("broken")')
    assert (line["event"], line["level"]) == ("broken", "error")
    assert "Traceback (most recent call last)" in line["exception"]
    assert "ValueError: first line\nsecond line" in line["exception"]


@pytest.mark.parametrize("logger", ["log", "library"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_told_without_the_values_of_variables(logger, log_format):
    told = said(f'try:\n    fail()\nexcept ValueError:\n    {logger}.exception("broken")', log_format)
    assert "ValueError" in told
    assert "second line" in told
    assert "hunter2" not in told


def test_what_is_below_the_level_is_not_told():
    program = STORED + 'log.debug("detail"); log.warning("careful"); library.info("chatter"); library.error("broken")'
    assert [line["event"] for line in lines(program, "warning")] == ["careful", "broken"]
    assert [line["event"] for line in lines(program, "info")] == ["order stored", "careful", "chatter", "broken"]


def test_debugging_shows_the_applications_details_but_not_the_libraries():
    assert [line["event"] for line in lines('log.debug("detail"); library.debug("chatter")', "debug")] == ["detail"]


def test_setting_up_twice_does_not_say_everything_twice():
    assert len(lines('configure("json", "info"); library.warning("careful"); log.warning("careful")')) == 2


def test_logging_that_others_had_set_up_is_replaced():
    program = 'logging.basicConfig(force=True); configure("json", "info"); library.warning("careful")'
    assert [line["event"] for line in lines(program)] == ["careful"]


def test_a_line_on_the_console_can_be_read():
    told = COLOUR.sub("", said(STORED, "console"))
    assert len(told.splitlines()) == 1
    with pytest.raises(ValueError):
        json.loads(told)
    for part in ("info", "order stored", "module=orders", "order_id=o-1", "request_id=r-1", "took_ms=1.23"):
        assert part in told


def test_into_a_pipe_the_text_has_no_codes_of_colours():
    assert "\x1b" not in said(STORED + 'library.warning("slow")', "console")


def test_stages_are_in_a_column_on_the_console():
    program = 'for stage in Stage: record_stage(stage, module="m", order_id="o", request_id="r", took_ms=0)'
    told = [COLOUR.sub("", line) for line in said(program, "console").splitlines()]
    assert len(told) == 9
    assert len({line.index("module=m") for line in told}) == 1


def test_the_libraries_lines_can_be_read_on_the_console():
    told = COLOUR.sub("", said('library.warning("slow by %d ms", 7)', "console"))
    assert "warning" in told
    assert "slow by 7 ms" in told


def test_without_a_terminal_auto_means_json():
    assert json.loads(said(STORED, "auto"))["event"] == "order stored"


def test_on_a_terminal_auto_means_console():
    ours, theirs = pty.openpty()
    try:
        source = PRELUDE.format(log_format="auto", log_level="info") + STORED
        subprocess.run([sys.executable, "-c", source], stdout=theirs, check=True, timeout=60)
        coloured = os.read(ours, 4096).decode()
        told = COLOUR.sub("", coloured)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "order stored" in told
    assert "module=orders" in told
    assert told != coloured


def test_subscribers_get_the_lines_of_every_stage_at_once(monkeypatch):
    one, other = [], []
    monkeypatch.setattr(stages, "_subscribers", [lambda *told: one.append(told), lambda *told: other.append(told)])
    record_stage(Stage.ORDER_STORED, module="orders", order_id="o", request_id="r", took_ms=1.239, version=7)
    [(stage, at, [line])] = one
    assert one == other
    assert stage == "order stored"
    assert abs(at - datetime.now(UTC).timestamp()) < 60
    assert line == {"module": "orders", "order_id": "o", "request_id": "r", "took_ms": 1.24, "version": 7}


def test_stages_that_a_thread_writes_come_whole_in_order_and_at_the_end_too():
    program = """
import time
writer.STOP_SECONDS = 30.0
start_writing()
for at in range(50):
    record_stage(Stage.ORDER_STORED, module="m", order_id=f"o-{at}", request_id="r", took_ms=0)
log.warning("careful")
time.sleep(3 * writer.INTERVAL_SECONDS)
record_stage(Stage.ORDER_UPDATED, module="m", order_id="last", request_id="r", took_ms=0)
stop_writing()
"""
    told = lines(program)
    stages = [line["order_id"] for line in told if "order_id" in line]
    assert stages == [*(f"o-{at}" for at in range(50)), "last"]
    assert [line["timestamp"] for line in told if "order_id" in line] == sorted(
        line["timestamp"] for line in told if "order_id" in line
    )
    assert [line["event"] for line in told if line["level"] == "warning"] == ["careful"]


def test_what_waits_is_written_by_a_thread_without_anybody_asking():
    program = """
import os, select, sys
start_writing()
record_stage(Stage.ORDER_STORED, module="m", order_id="o", request_id="r", took_ms=0)
select.select([sys.stdin], [], [], 30)
os._exit(0)
"""
    source = PRELUDE.format(log_format="json", log_level="info") + program
    # It waits for the end of its input, which comes when its line has been read.
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        first = process.stdout.readline()
        rest, _ = process.communicate(timeout=60)
    assert (json.loads(first)["order_id"], rest) == ("o", "")
