"""The metrics of a replica: which families there are, what each says, and its samples out of the figures.

Labels are bounded by the configuration: never a session, path or address of a client. docs/metrics.md lists them all.
"""

from __future__ import annotations

from fastroute._core.board import BOUNDS_S
from fastroute._core.mc_queue import ROUNDTRIP_BOUNDS_S
from fastroute.metrics.figures import Figures
from fastroute.metrics.text import Page, escape
from fastroute.model import STATES

__all__ = ["page"]

NEAR_MODES = ("", "poll", "push")


def page(figures: Figures, version: str) -> bytes:
    """The answer to a scrape."""
    out = Page()
    out.family("fastroute_build_info", "gauge", "The version that runs; always 1.")
    out.sample(1, version=version)
    _requests(out, figures)
    _servers(out, figures)
    _affinity(out, figures)
    _store(out, figures)
    _orders(out, figures)
    _replica(out, figures)
    return out.bytes()


def _requests(out: Page, figures: Figures) -> None:
    out.family(
        "fastroute_requests_total",
        "counter",
        "Responses to clients by class of status code; server is empty where the balancer answered by itself.",
    )
    for pool in figures.pools:
        prefix = f'pool="{escape(pool.name)}",server="'
        out.samples(
            (f'{prefix}{escape(server.name)}",code="{code}"', count)
            for server in pool.servers
            for code, count in server.responses.items()
            if count or code in ("2xx", "3xx", "4xx", "5xx")
        )
        out.samples((f'{prefix}",code="{code}"', count) for code, count in pool.own_responses.items() if count)
    out.family(
        "fastroute_request_duration_seconds",
        "histogram",
        "From the whole request head to the end of the response, waits for the store and for connections included.",
    )
    for pool in figures.pools:
        out.histogram(BOUNDS_S, pool.duration_counts, pool.duration_sum_s, pool=pool.name)
    out.family("fastroute_selections_total", "counter", "Servers chosen, by the reason for the choice.")
    for pool in figures.pools:
        for reason, count in pool.selections.items():
            if count or reason != "other":
                out.sample(count, pool=pool.name, reason=reason)
    out.family("fastroute_retries_total", "counter", "Requests that were tried again, by how they ended.")
    for pool in figures.pools:
        for outcome, count in pool.retries.items():
            out.sample(count, pool=pool.name, outcome=outcome)
    out.family("fastroute_pending_requests", "gauge", "Requests that wait for a connection or for the store's answer.")
    for pool in figures.pools:
        out.sample(pool.pending, pool=pool.name)


def _servers(out: Page, figures: Figures) -> None:
    labels = [
        (f'pool="{escape(pool.name)}",server="{escape(server.name)}"', server)
        for pool in figures.pools
        for server in pool.servers
    ]
    out.family(
        "fastroute_server_state", "gauge", "1 for the state that a server is in: what most of the workers see, else 0."
    )
    out.samples(
        (f'{label},state="{state}"', 1 if server.state == state else 0) for label, server in labels for state in STATES
    )
    out.family("fastroute_server_in_flight", "gauge", "Requests that a server is working on.")
    out.samples((label, server.in_flight) for label, server in labels)
    out.family("fastroute_server_weight", "gauge", "Weight as configured or ordered.")
    out.samples((label, server.weight) for label, server in labels)
    out.family("fastroute_server_weight_effective", "gauge", "Weight in force: less during a slow start.")
    out.samples((label, server.weight_effective) for label, server in labels)
    out.family("fastroute_server_attempts_total", "counter", "Requests sent or tried to be sent to a server.")
    out.samples((label, server.requests) for label, server in labels)
    out.family("fastroute_server_failures_total", "counter", "Of these, failed by the server.")
    out.samples((label, server.failures) for label, server in labels)
    out.family("fastroute_server_latency_seconds", "gauge", "Moving average of the time to a server's response head.")
    out.samples((label, server.latency_s) for label, server in labels)
    out.family("fastroute_health_flips_total", "counter", "Changes of a server's state that health made, per worker.")
    out.samples(
        (f'{label},to="{state}"', server.flips[state])
        for label, server in labels
        for state in ("ready", "down", "ejected")
    )
    out.family("fastroute_health_checks_total", "counter", "Checks of servers that this replica made, by result.")
    for label, server in labels:
        if server.last_check:
            failed = server.last_check["failed"]
            out.samples([(f'{label},result="ok"', server.last_check["checks"] - failed)])
            out.samples([(f'{label},result="failed"', failed)])
    out.family("fastroute_content_differs", "gauge", "1 for a server whose contents differ from the pool's.")
    out.samples((label, int(server.last_check["odd"])) for label, server in labels if server.last_check)
    out.family("fastroute_pool_ready_servers", "gauge", "Ready servers, in the worker that sees the fewest.")
    for pool in figures.pools:
        out.sample(pool.ready_min, pool=pool.name)
    out.family("fastroute_pool_panic", "gauge", "1 while so few servers are ready that all are used.")
    for pool in figures.pools:
        out.sample(int(pool.panic), pool=pool.name)


def _affinity(out: Page, figures: Figures) -> None:
    out.family("fastroute_bindings", "gauge", "Live bindings in this machine's zone.")
    for pool in figures.pools:
        if pool.bindings is not None:
            out.sample(pool.bindings, pool=pool.name)
    for verb, text in (
        ("claims", "Bindings asked for, by outcome."),
        ("moves", "Bindings moved from a failed server."),
    ):
        out.family(f"fastroute_{verb}_total", "counter", text)
        for pool in figures.pools:
            for key, count in pool.counted.items():
                if key.startswith(f"{verb}_"):
                    out.sample(count, pool=pool.name, result=key.removeprefix(f"{verb}_"))
    out.family("fastroute_rebalanced_total", "counter", "Idle bindings moved to servers with less than their share.")
    for name, count in figures.extra.get("rebalanced", {}).items():
        out.sample(count, pool=name)
    out.family("fastroute_near_mode", "gauge", "1 for how near entries are kept true: poll if one worker polls.")
    modes = [mode for pool in figures.pools for mode in pool.near_modes if mode]
    for mode in ("push", "poll"):
        out.sample(int(bool(modes) and NEAR_MODES[min(modes)] == mode), mode=mode)
    out.family(
        "fastroute_sticky_layers_seen_total",
        "counter",
        "Fields with a cookie of another sticky layer, among those looked at.",
    )
    for pool in figures.pools:
        for side, count in (pool.layers or {}).items():
            out.sample(count, pool=pool.name, side=side)
    out.family("fastroute_cookie_rejected_total", "counter", "The balancer's own cookies that were refused.")
    for cause, count in figures.engine["cookie_rejected"].items():
        out.sample(count, cause=cause)


def _orders(out: Page, figures: Figures) -> None:
    """What operators ordered for the whole fleet; no samples without one."""
    extra = figures.extra
    out.family("fastroute_fleet_orders", "gauge", "Orders for the whole fleet that hold.")
    if "orders" in extra:
        out.sample(extra["orders"])
    out.family("fastroute_fleet_orders_restored_total", "counter", "Times that a store got the orders back from here.")
    if "orders" in extra:
        out.sample(extra["orders_restored"])
    out.family("fastroute_fleet_orders_refused_total", "counter", "Records in the store that were not believed.")
    for cause in ("forged", "format", "malformed", "old", "size") if "orders" in extra else ():
        out.sample(extra["orders_refused"].get(cause, 0), cause=cause)


def _store(out: Page, figures: Figures) -> None:
    out.family("fastroute_store_up", "gauge", "1 while every worker is connected to the node.")
    for node in figures.nodes:
        out.sample(int(node.up), node=node.name)
    out.family("fastroute_store_roundtrip_seconds", "histogram", "Round trips to a node; one request per write.")
    for node in figures.nodes:
        out.histogram(ROUNDTRIP_BOUNDS_S, node.roundtrip_counts, node.roundtrip_sum_s, node=node.name)
    out.family("fastroute_store_requests_total", "counter", "Requests to a node.")
    for node in figures.nodes:
        out.sample(node.counted["requests"], node=node.name)
    out.family("fastroute_store_errors_total", "counter", "Requests to a node without a usable answer, by kind.")
    for node in figures.nodes:
        for kind, key in (
            ("unknown", "unknown"),
            ("down", "down"),
            ("busy", "busy"),
            ("timeout", "timeouts"),
            ("protocol", "protocol_errors"),
            ("server", "server_errors"),
            ("stale-token", "stale_tokens"),
            ("connect", "attempts_failed"),
        ):
            out.sample(node.counted[key], node=node.name, kind=kind)
    out.family("fastroute_cache_requests_total", "counter", "Requests on cached routes, by pool and result.")
    for (namespace, result), count in figures.extra.get("cache", {}).items():
        out.sample(count, namespace=namespace, result=result)


def _replica(out: Page, figures: Figures) -> None:
    engine = figures.engine
    out.family("fastroute_limits_hit_total", "counter", "Requests or connections that met a limit.")
    for limit, count in engine["limits_hit"].items():
        out.sample(count, limit=limit)
    out.family("fastroute_downstream_connections", "gauge", "Clients' connections that are open.")
    for name, count in figures.listeners.items():
        out.sample(count, listener=name)
    out.family("fastroute_access_log_lines_total", "counter", "Lines of the access log.")
    out.sample(engine["access_log"]["lines"])
    out.family(
        "fastroute_access_log_dropped_total",
        "counter",
        "Lines that were dropped: the log could not be written in time.",
    )
    out.sample(engine["access_log"]["dropped"])
    out.family("fastroute_downstream_accepted_total", "counter", "Clients' connections that were accepted.")
    out.sample(engine["downstream_accepted"])
    out.family("fastroute_downstream_aborts_total", "counter", "Requests whose client left before the answer ended.")
    out.sample(engine["aborted_by_client"])
    out.family("fastroute_tls_handshakes_total", "counter", "Clients' TLS handshakes, by outcome.")
    for outcome, count in engine["handshakes"].items():
        out.sample(count, outcome=outcome)
    out.family("fastroute_proxy_headers_total", "counter", "Connections at listeners with proxy_protocol, by outcome.")
    for outcome, count in engine["proxy_headers"].items():
        out.sample(count, outcome=outcome)
    out.family("fastroute_responses_truncated_total", "counter", "Responses cut off because the server failed midway.")
    out.sample(engine["truncated"])
    out.family("fastroute_upstream_connections", "gauge", "Connections to servers that are open.")
    out.sample(engine["upstream_open"])
    out.family("fastroute_upstream_connects_total", "counter", "Connections to servers, by outcome.")
    out.sample(engine["upstream_connects"] - engine["upstream_connect_failures"], outcome="ok")
    out.sample(engine["upstream_connect_failures"], outcome="failed")
    out.family(
        "fastroute_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the certificate of a listener, or of its chain, ends; name is empty for the listener's own.",
    )
    for listener, name, ends_s in figures.certificates:
        out.sample(ends_s, listener=listener, name=name)
    out.family("fastroute_workers", "gauge", "Workers of this replica.")
    out.sample(sum(accepting for _, _, accepting, _ in figures.workers), state="accepting")
    out.sample(figures.workers_wanted, state="wanted")
    out.family("fastroute_config_reloads_total", "counter", "Reloads of the configuration.")
    out.sample(figures.reloads_ok, result="ok")
    out.sample(figures.reloads_refused, result="refused")
