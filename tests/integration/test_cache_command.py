"""`fastroute cache`: warm, load and purge, with a real memcached and a real HTTP server; what is left is kept."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from click.testing import CliRunner, Result

from fastroute import Memcached, SharedCache
from fastroute.cli import main
from tests.support.memcached import Memcached as Process


@pytest.fixture(scope="module")
def memcached() -> Iterator[Process]:
    with Process() as process:
        yield process


def run(*arguments: str, standard_input: str | bytes | None = None) -> tuple[int, dict[str, Any], Result]:
    result = CliRunner().invoke(main, ["cache", *arguments, "--json"], input=standard_input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout) if result.exit_code < 2 else {}, result


def held(memcached: Process, namespace: str, *keys: Any) -> dict[Any, Any]:
    async def read() -> dict[Any, Any]:
        async with (
            Memcached([memcached.address], timeout="2s") as store,
            SharedCache(store, namespace=namespace, near_bytes=0) as cache,
        ):
            return await cache.get_many(keys)

    return asyncio.run(read())


def of(memcached: Process, namespace: str) -> list[str]:
    return ["--memcached", memcached.address, "--namespace", namespace]


# -- load and purge


def test_json_lines_are_loaded(memcached: Process, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "values.jsonl"
    lines = [
        {"key": "a", "value": {"n": 1}},
        {"key": ["user", 7], "value": [1, 2], "ttl": "5m", "tags": ["t"]},
        ["b", "plain"],
    ]
    path.write_text("# three of them\n\n" + "".join(json.dumps(line) + "\n" for line in lines))
    status, outcome, _ = run("load", str(path), *of(memcached, "jsonl"))
    assert (status, outcome["done"], outcome["failed"], outcome["left"]) == (0, 3, 0, 0)
    assert outcome["size_bytes"] > 0
    assert held(memcached, "jsonl", "a", ("user", 7), "b") == {"a": {"n": 1}, ("user", 7): [1, 2], "b": "plain"}


def test_msgpack_is_loaded_with_bytes_as_bytes(memcached: Process) -> None:
    packed = msgpack.packb({"key": b"k", "value": b"\x00\xff"}) + msgpack.packb(["s", {"x": b"1"}])
    status, outcome, _ = run("load", "-", "--format", "msgpack", *of(memcached, "mp"), standard_input=packed)
    assert (status, outcome["done"]) == (0, 2)
    assert held(memcached, "mp", b"k", "s") == {b"k": b"\x00\xff", "s": {"x": b"1"}}


def test_bad_lines_fail_alone_and_are_written_down(memcached: Process, tmp_path: pathlib.Path) -> None:
    bad = ["no json", '{"key": 1, "value": 2}', '{"key": "k"}', '{"key": "k", "value": 1, "tll": 3}', '["k", 1, 2]']
    path, left = tmp_path / "values.jsonl", tmp_path / "left.jsonl"
    path.write_text("\n".join(['["good", 1]', *bad, '["better", 2]']))
    status, outcome, _ = run("load", str(path), "--failed", str(left), *of(memcached, "bad"))
    assert (status, outcome["done"], outcome["failed"]) == (1, 2, len(bad))
    assert sorted(left.read_text().splitlines()) == sorted(bad)
    assert held(memcached, "bad", "good", "better") == {"good": 1, "better": 2}


def test_without_a_store_everything_fails_and_nothing_is_lost(tmp_path: pathlib.Path) -> None:
    with Process() as gone:
        address = gone.address
    path, left = tmp_path / "values.jsonl", tmp_path / "left.jsonl"
    path.write_text("".join(f'["k{number}", {number}]\n' for number in range(20)))
    arguments = ["--memcached", address, "--namespace", "n", "--failed", str(left)]
    status, outcome, _ = run("load", str(path), *arguments)
    assert (status, outcome["done"], outcome["failed"]) == (1, 0, 20)
    assert sorted(left.read_text().splitlines()) == sorted(path.read_text().splitlines())


def test_what_is_left_is_loaded_by_the_same_command(memcached: Process, tmp_path: pathlib.Path) -> None:
    path, left, again = tmp_path / "values.jsonl", tmp_path / "left", tmp_path / "again"
    path.write_text('["a", 1]\n["b"\n')
    assert run("load", str(path), "--failed", str(left), *of(memcached, "again"))[0] == 1
    left.write_text(left.read_text().replace('["b"', '["b", 2]'))
    again.write_text("of an earlier run\n")
    assert run("load", str(left), "--failed", str(again), *of(memcached, "again"))[0] == 0
    assert held(memcached, "again", "a", "b") == {"a": 1, "b": 2}
    assert again.read_text() == "", "what an earlier run left is done"


def test_keys_tags_and_namespaces_are_purged(memcached: Process, tmp_path: pathlib.Path) -> None:
    values = [{"key": f"k{n}", "value": n, "tags": ["even" if n % 2 == 0 else "odd"]} for n in range(10)]
    lines = "".join(json.dumps(one) + "\n" for one in values) + '{"key": ["t", 1], "value": "tuple"}\n'
    where = of(memcached, "purge")
    assert run("load", "-", *where, standard_input=lines)[0] == 0
    every = [*(f"k{n}" for n in range(10)), ("t", 1)]
    assert len(held(memcached, "purge", *every)) == 11
    assert run("purge", "-", *where, standard_input="k1\nk3\n")[1]["done"] == 2
    assert run("purge", "-", "--json-keys", *where, standard_input='["t", 1]\n')[1]["done"] == 1
    assert set(held(memcached, "purge", *every)) == {*(f"k{n}" for n in range(10))} - {"k1", "k3"}
    assert run("purge", "-", "--tags", *where, standard_input="odd\n")[1]["done"] == 1
    assert set(held(memcached, "purge", *every)) == {f"k{n}" for n in range(0, 10, 2)}
    assert run("purge", "--all", *where)[1]["done"] == 1
    assert held(memcached, "purge", *every) == {}


def test_the_configuration_names_the_nodes_and_the_fleet(memcached: Process, tmp_path: pathlib.Path) -> None:
    config = tmp_path / "fastroute.toml"
    config.write_text(
        f'identity_secret = "of tests, and at least 32 bytes long"\nfleet = "blue"\n'
        f'[store]\nmemcached = ["{memcached.address}"]\n'
        f'[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n'
        f'[pools.app]\n[[pools.app.servers]]\naddress = "127.0.0.1:8081"\n'
    )
    arguments = ["-c", str(config), "--namespace", "conf"]
    assert run("load", "-", *arguments, standard_input='["a", 1]')[0] == 0
    assert held(memcached, "conf", "a") == {}
    assert run("load", "-", *arguments, "--fleet", "fr", standard_input='["a", 1]')[0] == 0
    assert held(memcached, "conf", "a") == {"a": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "FILE", "--namespace", "n"],
        ["load", "missing", "--namespace", "n", "--memcached", "127.0.0.1:1"],
        ["load", "FILE", "--namespace", "n n", "--memcached", "127.0.0.1:1"],
        ["load", "FILE", "--namespace", "n", "--memcached", "127.0.0.1:1", "--ttl", "soon"],
        ["load", "FILE", "--namespace", "n", "--memcached", "127.0.0.1:1", "--at-once", "0"],
        ["load", "FILE", "--namespace", "n", "--memcached", "127.0.0.1:1", "--failed", "FILE"],
        ["purge", "--namespace", "n", "--memcached", "127.0.0.1:1"],
        ["purge", "FILE", "--all", "--namespace", "n", "--memcached", "127.0.0.1:1"],
        ["warm", "FILE", "--through", "nowhere"],
        ["warm", "FILE", "--header", "no colon"],
    ],
)
def test_what_is_not_accepted_is_a_usage_error(arguments: list[str], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "list"
    path.write_text("/a\n")
    status, _, result = run(*[str(path) if one == "FILE" else one for one in arguments])
    assert status == 2, result.output


# -- warm


class Web:
    """A server that remembers what it was asked; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.some = threading.Condition()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with web.some:
                    web.asked.append((self.path, self.headers["Host"], self.headers["X-Kind"]))
                    web.some.notify_all()
                web.gate.wait(20)
                body = b"x" * 100
                self.send_response(404 if "missing" in self.path else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Web:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_every_url_is_asked_for_once_through_the_proxies() -> None:
    with Web() as one, Web() as two:
        urls = "".join(f"http://site.test/page{number}?q={number}\n" for number in range(40))
        arguments = ["--through", one.address, "--through", two.address, "--header", "X-Kind: a", "--at-once", "4"]
        status, outcome, _ = run("warm", "-", *arguments, standard_input=urls)
        assert (status, outcome["done"], outcome["size_bytes"]) == (0, 40, 4000)
        assert sorted(one.asked + two.asked) == sorted(
            (f"/page{number}?q={number}", "site.test", "a") for number in range(40)
        )
        assert abs(len(one.asked) - len(two.asked)) <= 1


def test_paths_are_warmed_with_a_host_and_errors_are_left(tmp_path: pathlib.Path) -> None:
    left = tmp_path / "left"
    with Web() as web:
        paths = "/a\n/missing\nftp://x/\n/b\n"
        arguments = ["--through", web.address, "--host", "site.test", "--failed", str(left)]
        status, outcome, _ = run("warm", "-", *arguments, standard_input=paths)
        assert (status, outcome["done"], outcome["failed"]) == (1, 2, 2)
        assert outcome["reasons"]["status 404"] == 1
        assert sorted(left.read_text().split()) == ["/missing", "ftp://x/"]


def test_an_interrupted_run_goes_on_where_it_ended(tmp_path: pathlib.Path) -> None:
    path, left = tmp_path / "urls", tmp_path / "left"
    with Web() as web:
        urls = [f"http://{web.address}/{number}" for number in range(3000)]
        path.write_text("\n".join(urls))
        web.gate.clear()
        command = [sys.executable, "-m", "fastroute", "cache", "warm", str(path), "--failed", str(left)]
        with subprocess.Popen(
            [*command, "--at-once", "3", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            with web.some:
                assert web.some.wait_for(lambda: len(web.asked) == 3, 20)
            os.kill(process.pid, signal.SIGINT)
            web.gate.set()
            out, error = process.communicate(timeout=30)
        outcome = json.loads(out)
        assert process.returncode == 1, error
        assert outcome["interrupted"]
        assert outcome["left"] > 0
        assert outcome["failed"] == 0
        assert outcome["done"] + outcome["left"] == 3000
        assert outcome["done"] == len(web.asked), "those under way were finished"
        rest = left.read_text().split()
        assert len(rest) == outcome["left"]
        assert sorted(rest + [f"http://{web.address}{asked}" for asked, _, _ in web.asked]) == sorted(urls)
