"""The page on scaling has the tables that the command computes from the figures, and the arithmetic is right."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tools.bench import scaling
from tools.bench.commands import parser
from tools.bench.scaling import FIGURES, PAGE, Figures, rendered, size


@pytest.fixture
def figures():
    return Figures()


def test_the_page_says_what_the_figures_give(figures):
    assert PAGE.read_text() == rendered(PAGE.read_text(), figures)


def test_another_figure_gives_another_page(tmp_path):
    changed = tmp_path / "scaling.toml"
    changed.write_text(re.sub(r"gateway_us = \d+", "gateway_us = 1600", FIGURES.read_text()).replace("false", "true"))
    page = rendered(PAGE.read_text(), Figures(changed))
    assert "| gateway | 1,600 µs | 0.74 vCPU-hours |" in page
    assert " †" not in page.partition("<!-- cost -->")[2].partition("<!-- /cost -->")[0]


def test_what_is_not_measured_or_looked_up_says_so(figures):
    page = " ".join(PAGE.read_text().split())
    assert figures.split.measured or "† is not measured yet" in page
    assert re.search(r"prices are examples\W.*not looked up", page)


def test_every_metric_on_the_page_is_in_a_scrape(client):
    scraped = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    named = set(re.findall(r"`(orderflow_\w+?)(?:_total)?[`{]", PAGE.read_text())) - {
        "orderflow_orders",
        "orderflow_payments",
    }
    assert "orderflow_backlog_due" in named
    assert named <= scraped


def test_needs_grow_with_the_rate(figures):
    little, much = size(figures, 10_000), size(figures, 100_000)
    assert much.tasks["gateway"] == pytest.approx(10 * little.tasks["gateway"], rel=0.1)
    assert much.tasks["gateway"] == -(-100_000 * figures.split.gateway_us // (1e6 * figures.assumed.use))
    assert much.call_slots == 100_000 * figures.assumed.provider_seconds
    assert much.tasks["payments"] * figures.assumed.call_slots >= much.call_slots
    assert much.shards * figures.assumed.shard_cores >= much.database_cores
    assert (much.shards - 1) * figures.assumed.shard_cores < much.database_cores
    assert size(figures, 1).tasks == dict.fromkeys(scaling.MODULES, 2)


def test_a_batch_costs_nothing_on_one_shard_and_a_single_order_nothing_on_many(figures):
    assert scaling.broadcast_us(figures, 1, 128) == 0
    assert scaling.broadcast_us(figures, 64, 1) == 0
    assert scaling.reached(8, 1000) == pytest.approx(8)
    assert scaling.reached(2, 2) == 1.5


def test_measured_figures_are_written_and_the_others_left_alone(tmp_path):
    file = tmp_path / "scaling.toml"
    file.write_text(FIGURES.read_text())
    scaling.write_section("measured", {"at": "2030-01-01", "miss_us": 1.5}, file)
    kept, before = Figures(file), Figures()
    assert vars(kept.measured) == {"at": "2030-01-01", "miss_us": 1.5}
    assert (vars(kept.prices), vars(kept.split)) == (vars(before.prices), vars(before.split))


def test_the_command_takes_its_options():
    options = parser().parse_args(["scaling", "--measure"])
    assert options.measure
    assert not parser().parse_args(["scaling"]).measure
