"""The bench of webhooks counts what arrives, and judges POST with webhooks by POST without."""

from datetime import UTC, datetime

import httpx
import pytest

from tools.bench.contestants import Kind
from tools.bench.rounds import Round
from tools.bench.runner import Results
from tools.bench.webhooks import Measured, SinkServer, Variant

pytestmark = pytest.mark.extended


def test_the_sink_counts_by_path_and_measures_from_the_change_to_the_arrival(tmp_path):
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with SinkServer(tmp_path) as sink, httpx.Client(base_url=sink.url, trust_env=False, timeout=60) as http:
        for path in ("/one", "/one", "/two"):
            assert http.post(path, content=f'{{"timestamp":"{at}"}}').status_code == 204
        count, delays = sink.received("/one")
        assert (count, len(delays)) == (2, 2)
        assert all(delay >= 0 for delay in delays)
        assert sink.received("/two")[0] == 1
        assert sink.received("/three") == (0, [])
        with pytest.raises(httpx.ReadTimeout):
            http.post("/hang", content="{}", timeout=0.3)


def test_each_variant_is_judged_by_the_one_without_webhooks():
    rates = {Variant.OFF: 1000.0, Variant.NOBODY: 980.0, Variant.ONE: 700.0}
    results = Results({name: {Kind.POST: [Round(flow_rate=rate)]} for name, rate in rates.items()})
    measured = Measured(results, 1200.0, {Variant.ONE: [10.0, 20.0, 30.0], Variant.DEAD: [20.0, 30.0, 40.0]})
    assert [(one.measured, one.met) for one in measured.targets] == [(0.98, True), (0.7, False), (1200.0, True)]
    assert measured.delay_ratio == 1.5
