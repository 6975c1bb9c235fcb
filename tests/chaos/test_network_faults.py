"""The network between server and database fails in every way that TCP can."""

import time
from urllib.parse import urlsplit

import pytest

from tools.chaos.clients import LoadGenerator
from tools.chaos.proxy import Mode, Proxy
from tools.chaos.verdict import examine, wait_until_settled
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long]


ENVIRONMENT = {
    "PAYMENT_TIMEOUT": "2",
    "BACKGROUND_DEADLINE": "2",
    "PAYMENT_LEASE": "6.5",
    "RELAY_LEASE": "3",
    "PAYMENT_BACKOFF": "0.2",
    "PAYMENT_BACKOFF_MAX": "1",
    "BREAKER_RECOVERY": "1",
    "SIMULATED_LATENCY_MS": "50",
}
FAULTS = {Mode.CUT: 2.0, Mode.RESET: 2.0, Mode.HALF_OPEN: 3.0, Mode.LATENCY: 3.0, Mode.SLICED: 1.5}
ANSWERS = {"200", "201", "409", "503"}
# A query of the backlog, a wait for the batch and the batch itself, each with a deadline of 2 s at the most; the rest is for a busy
# machine.
ANSWER_SECONDS = 15.0
RECOVERY_SECONDS = 30.0


def test_whatever_the_network_does_each_request_is_answered_in_time_and_none_is_lost(settings, mongodb_uri, tmp_path):
    at = urlsplit(mongodb_uri)
    with Proxy(at.port) as proxy:
        uri = f"mongodb://{at.username}:{at.password}@127.0.0.1:{proxy.port}/?directConnection=true"
        environ = {**ENVIRONMENT, "MONGODB_URI": uri, "MONGODB_DATABASE": settings.database}
        healed = {}
        with Server(tmp_path, environ) as server:
            workers = server.workers(2)
            with LoadGenerator(server.url, clients=6, rate=20, timeout=30) as load:
                time.sleep(1.0)
                for fault, seconds in FAULTS.items():
                    proxy.set_mode(fault)
                    time.sleep(seconds)
                    proxy.set_mode(Mode.FORWARD)
                    healed[fault] = time.monotonic()
                    ends = healed[fault] + RECOVERY_SECONDS
                    while load.record.recovery(healed[fault]) is None and time.monotonic() < ends:
                        time.sleep(0.02)
            wait_until_settled(mongodb_uri, settings.database, 60)
            report = examine(mongodb_uri, settings.database, load.record)
            assert server.workers(2) == workers

    assert not report.findings + report.attention
    assert load.gave_up == 0
    assert {sent.answer for sent in load.record.sent} <= ANSWERS, load.record.answers
    assert not [sent for sent in load.record.sent if sent.seconds > ANSWER_SECONDS]
    assert {
        fault: took for fault, at in healed.items() if not (took := load.record.recovery(at)) or took > RECOVERY_SECONDS
    } == {}
    assert load.record.answers["POST order: 503"] > 0
    assert len(load.record.acknowledged) > len(FAULTS)
