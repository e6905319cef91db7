"""What the policies do to a simulated fleet: the product's own Pools in virtual time (benchmarks/simulate)."""

import json

import pytest

from benchmarks import study_table
from benchmarks.simulate import __main__ as study
from benchmarks.simulate.engine import Events, Job, SimulatedServer
from benchmarks.simulate.scenarios import bounded_load, restart, tail

AWARE = ("least-connections", "two-choices", "peak-ewma")
BLIND = ("round-robin", "random")
SEED = 5


@pytest.fixture(scope="module")
def crowd() -> dict[tuple[str, float], float]:
    """p99 with 100 replicas, about the published test bed, per policy and load."""
    return {
        (policy, load): tail(policy, load, replicas=100, servers=50, requests=16_000, seed=SEED)["p99_ms"]
        for policy in (*BLIND, *AWARE, "prequal")
        for load in (0.7, 0.9)
    }


def test_requests_on_one_server_share_its_processor():
    events, ended = Events(), []
    server = SimulatedServer(events, "s")
    for work_ms in (10.0, 20.0):
        server.begin(Job(work_ms, lambda served: ended.append((events.now_ms, served))))
    events.run(100.0)
    assert ended == [(20.0, True), (30.0, True)]


def test_a_request_that_is_given_up_leaves_the_processor_to_the_others():
    events, ended = Events(), []
    server = SimulatedServer(events, "s")
    given_up = Job(1000.0, lambda served: ended.append((events.now_ms, served)))
    server.begin(given_up)
    server.begin(Job(10.0, lambda served: ended.append((events.now_ms, served))))
    events.at(10.0, lambda: server.give_up(given_up))
    events.run(100.0)
    assert ended == [(10.0, False), (15.0, True)]


def test_a_slower_server_takes_longer_from_that_moment_on():
    events, ended = Events(), []
    server = SimulatedServer(events, "s", cores=2)
    server.begin(Job(10.0, lambda _served: ended.append(events.now_ms)))
    events.at(5.0, lambda: server.set_speed(0.5))
    events.run(100.0)
    assert ended == [15.0]


def test_the_same_seed_gives_the_same_numbers():
    assert tail("two-choices", 0.8, requests=1500, seed=3) == tail("two-choices", 0.8, requests=1500, seed=3)


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_with_few_replicas_every_policy_that_looks_at_load_beats_those_that_do_not_by_far(load):
    p99 = {policy: tail(policy, load, requests=6000, seed=SEED)["p99_ms"] for policy in (*BLIND, *AWARE)}
    assert max(p99[policy] for policy in AWARE) * 3 < min(p99[policy] for policy in BLIND)


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_with_many_replicas_the_order_at_p99_is_the_published_one(crowd, load):
    """Prequal's table: Prequal, then what looks at load, then round robin (anchors: 286 < 1169, 2654 < timeout)."""
    assert crowd["prequal", load] * 1.3 < min(crowd[policy, load] for policy in AWARE)
    assert max(crowd[policy, load] for policy in AWARE) < min(crowd[policy, load] for policy in BLIND)


def test_at_90_percent_two_choices_beats_least_connections_where_each_replica_sees_little(crowd):
    assert crowd["two-choices", 0.9] < crowd["least-connections", 0.9]


@pytest.mark.parametrize("seed", [1])
def test_a_restarted_server_never_gets_more_than_its_ramp(seed):
    found = restart(seed=seed)
    assert found["replicas"] == 4
    for one in found["bins"]:
        if one["second"] < found["window_s"]:
            assert one["picks"] <= 1.2 * one["allowed"] + found["replicas"], f"seed {seed}: {one}"
    assert sum(one["picks"] for one in found["bins"]) > 0


def test_without_slow_start_least_connections_bombards_a_restarted_server():
    first = restart(slow_start=False, window_s=1.0, bin_s=0.05)["bins"][0]
    assert first["share_of_fair"] > 2


@pytest.mark.parametrize("max_load", [1.1, 1.25, 2.0])
def test_no_server_takes_a_key_beyond_max_load(max_load):
    found = bounded_load(max_load, requests=6000, seed=SEED)
    assert found["picks_over_the_bound"] == 0
    assert found["largest_over_average"] <= max_load + 1 / 16  # a request is whole


def test_without_a_bound_the_popular_keys_load_their_servers():
    assert bounded_load(None, requests=6000, seed=SEED)["largest_over_average"] > 3


@pytest.mark.parametrize("script", [study_table, study], ids=["study_table", "simulate"])
def test_a_study_runs_in_its_quick_mode_and_writes_nothing(script, capsys, monkeypatch):
    before = script.RESULTS.read_bytes()
    monkeypatch.setattr("sys.argv", ["study", "--quick"])
    assert script.main() == 0
    assert all(json.loads(capsys.readouterr().out).values())
    assert script.RESULTS.read_bytes() == before
