"""The bench of replicas judges medians, and one small cluster is measured whole."""

import pytest

from tools.bench.cluster import COUNTS, ClusterCosts, ModuleCosts, as_dict, module_costs
from tools.bench.runner import Plan

pytestmark = pytest.mark.extended


def test_growth_compares_the_medians_of_most_and_fewest_processes():
    rounds = {
        1: [ModuleCosts({"gateway": us, "orders": 10}) for us in (90, 100, 900)],
        2: [ModuleCosts({"gateway": 110, "orders": 10}), ModuleCosts({"gateway": 5000, "orders": 1}, "2 bad answers")],
        4: [ModuleCosts({"gateway": 120, "orders": 5})],
    }
    costs = ClusterCosts(rounds)
    assert costs.medians() == {"gateway": [100, 110, 120], "orders": [10, 10, 5], "all": [110, 120, 125]}
    assert costs.growth() == pytest.approx({"gateway": 1.2, "orders": 0.5, "all": 125 / 110})
    assert costs.errors == ["2 of each: 2 bad answers"]
    assert as_dict(costs)["gateway_us"] == [100, 110, 120]


def test_without_a_good_round_of_each_nothing_is_said():
    costs = ClusterCosts({count: [ModuleCosts({}, "broken")] for count in COUNTS})
    assert (costs.medians(), costs.growth()) == ({}, {})


def test_the_cpu_of_each_process_is_told(tmp_path, rabbit_installed):
    costs = module_costs(tmp_path, 2, Plan(seconds=1, warmup=1, connections=8), pause_ms=50)
    assert costs.error == ""
    names = {"gateway", "orders", "payments", "broker", "orders_mongod", "payments_mongod"}
    assert costs.us.keys() == names
    assert min(costs.us.values()) > 0
