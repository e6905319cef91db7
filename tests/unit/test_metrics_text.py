"""The text of a scrape, read by Prometheus' own parser; and what the figures make of a board."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastroute._core.board import BOUNDS_S, Tally
from fastroute.config.load import loads
from fastroute.config.schema import Config
from fastroute.metrics import families
from fastroute.metrics.figures import read
from fastroute.metrics.layout import OTHER_SERVER, Ledger, make_board
from fastroute.metrics.text import Page, escape
from fastroute.proxy.build import make_pool

ROOT = pathlib.Path(__file__).parents[2]


def config(*names: str) -> Config:
    servers = "".join(
        f'[[pools.app.servers]]\nname = "{name}"\naddress = "10.0.0.{n + 1}:80"\n' for n, name in enumerate(names)
    )
    return loads(f'workers = 2\n[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[pools.app]\n{servers}').config


def test_a_page_is_what_prometheus_reads():
    page = Page()
    page.family("x_total", "counter", "Text.")
    page.sample(3, name='quote " backslash \\ newline \n')
    page.sample(4.5)
    page.family("y_seconds", "histogram", "Text.")
    page.histogram((0.1, 1.0), (1, 2, 4), 2.5, pool="a")
    found = {family.name: family for family in text_string_to_metric_families(page.bytes().decode())}
    assert [(s.labels, s.value) for s in found["x"].samples] == [
        ({"name": 'quote " backslash \\ newline \n'}, 3.0),
        ({}, 4.5),
    ]
    assert {s.labels.get("le", s.name): s.value for s in found["y_seconds"].samples} == {
        "0.1": 1,
        "1": 3,
        "+Inf": 7,
        "y_seconds_sum": 2.5,
        "y_seconds_count": 7,
    }


def test_escaping_keeps_what_needs_none():
    assert escape("web-1.example:80") == "web-1.example:80"


def test_workers_are_merged_and_a_row_that_was_left_still_counts():
    made = config("a", "b")
    board = make_board(made)
    columns = Ledger(board).assign(made)
    pool = make_pool(made, "app", made.pools["app"], None)
    for row in (0, 1):
        board.take(row, 100 + row)
        Tally(board.row(row), 0, columns.servers["app"]).publish(pool)
        board.row(row).words("server", columns.servers["app"]["a"])[2] = 10  # 2xx
    before = read(board, columns, made).pools[0]
    board.leave(1)
    after = read(board, columns, made).pools[0]
    for found in (before, after):
        assert found.servers[0].responses["2xx"] == 20
        assert found.requests == 20
    assert before.servers[0].states == {"ready": 2}
    assert after.servers[0].states == {"ready": 1}


def test_the_state_of_most_workers_is_shown_and_an_order_before_the_rest():
    made = config("a")
    board = make_board(made)
    columns = Ledger(board).assign(made)
    for row, state in enumerate(("ready", "down")):
        pool = make_pool(made, "app", made.pools["app"], None)
        pool.set_state("a", state)
        board.take(row, 100 + row)
        Tally(board.row(row), 0, columns.servers["app"]).publish(pool)
    assert read(board, columns, made).pools[0].servers[0].state == "down"
    pool.set_state("a", "draining")
    Tally(board.row(1), 0, columns.servers["app"]).publish(pool)
    assert read(board, columns, made).pools[0].servers[0].state == "draining"


def test_a_column_belongs_to_a_name_through_reloads():
    board = make_board(config("a", "b"))
    ledger = Ledger(board)
    first = ledger.assign(config("a", "b")).servers["app"]
    second = ledger.assign(config("c", "b")).servers["app"]
    third = ledger.assign(config("b", "a")).servers["app"]
    assert third == first
    assert second["b"] == first["b"]
    assert second["c"] not in first.values()


def test_names_beyond_the_room_share_a_column():
    board = make_board(config("a"), rows=1)
    ledger = Ledger(board)
    room = board.servers
    names = [f"s{n}" for n in range(room + 5)]
    columns = ledger.assign(config(*names)).servers["app"]
    assert list(columns.values()).count(OTHER_SERVER) == 6
    assert max(columns.values()) == room - 1


def test_every_metric_is_documented_and_every_documented_one_is_there():
    made = config("a")
    board = make_board(made)
    columns = Ledger(board).assign(made)
    text = families.page(read(board, columns, made), "1").decode()
    there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    documented = set(re.findall(r"^\| `(fastroute_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    assert there == documented


def test_alert_rules_ask_for_metrics_that_are_there():
    documented = (ROOT / "docs" / "metrics.md").read_text()
    rules = (ROOT / "examples" / "alerts.yml").read_text()
    for name in set(re.findall(r"fastroute_\w+", rules)):
        assert f"`{re.sub('_(bucket|sum|count)$', '', name)}`" in documented, name


FIRES = """rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'fastroute_pool_ready_servers{job="fastroute", instance="a", pool="app"}', values: '2 0 0 0'}
      - {series: 'fastroute_fleet_orders{job="fastroute", instance="a"}', values: '1x5'}
      - {series: 'fastroute_fleet_orders{job="fastroute", instance="b"}', values: '0x5'}
      - {series: 'fastroute_fleet_orders_refused_total{instance="a", cause="forged"}', values: '0 0 0 1'}
      - {series: 'fastroute_workers{instance="a", state="wanted"}', values: '2x5'}
      - {series: 'fastroute_workers{instance="a", state="accepting"}', values: '1x5'}
    alert_rule_test:
      - {eval_time: 0m, alertname: FastroutePoolWithoutServers}
      - eval_time: 3m
        alertname: FastroutePoolWithoutServers
        exp_alerts: [{exp_labels: {severity: page, job: fastroute, instance: a, pool: app},
                      exp_annotations: {summary: "pool app has no ready server on a"}}]
      - eval_time: 3m
        alertname: FastrouteOrdersDiffer
        exp_alerts: [{exp_labels: {severity: ticket, job: fastroute}, exp_annotations: {
          summary: "replicas of fastroute do not follow the same orders: one does not see the store"}}]
      - eval_time: 4m
        alertname: FastrouteForged
        exp_alerts: [{exp_labels: {severity: page, instance: a}, exp_annotations: {
          summary: "orders in the store that this fleet did not sign: a replica's secret, or somebody is trying"}}]
      - eval_time: 3m
        alertname: FastrouteWorkersMissing
        exp_alerts: [{exp_labels: {severity: page, instance: a},
                      exp_annotations: {summary: "not all workers of a accept"}}]
"""


def promtool(*arguments: str, text: str | None = None) -> str:
    """What Prometheus' own checker says."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def test_promtool_takes_the_rules_and_they_fire(tmp_path: pathlib.Path):
    rules = ROOT / "examples" / "alerts.yml"
    assert "rules found" in promtool("check", "rules", str(rules))
    shutil.copy(rules, tmp_path)
    (tmp_path / "fires.yml").write_text(FIRES)
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "fires.yml"))


def test_promtool_finds_nothing_wrong_with_names_types_and_units():
    made = config("a")
    board = make_board(made)
    columns = Ledger(board).assign(made)
    assert promtool("check", "metrics", text=families.page(read(board, columns, made), "1").decode()) == ""


def test_buckets_are_told_in_seconds():
    assert BOUNDS_S[0] == 0.0001
    assert BOUNDS_S[-1] == 30
