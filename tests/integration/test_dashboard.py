"""The dashboard in a real browser: what it shows, what a click does, keys, colours, 1,000 servers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.admin import CLIENT, READ_TOKEN, TOKEN, Admin, start_administered, until
from tests.support.browser import SKIP, Browser, Page, find_browser
from tests.support.fleet import free_ports, running, start_upstreams, unlink_zone
from tests.support.memcached import Memcached
from tests.support.shared import shared

pytestmark = pytest.mark.skipif(find_browser() is None, reason=SKIP)

ZONES = [f"dashboard{os.getpid()}-{n}" for n in range(2)]


class Site:
    """Two replicas of three servers behind one store, and a browser."""

    def __init__(self, browser: Browser, web: list[int], admin: list[int], names: list[str]) -> None:
        self.browser, self.web, self.names = browser, web, names
        self.admin = [Admin(port) for port in admin]

    def page(self, token: str = TOKEN, *, dark: bool = False) -> Page:
        page = self.browser.open(self.admin[0].base + "/healthz", dark=dark)
        page.evaluate(f"sessionStorage.setItem('fastroute-token', {json.dumps(token)})")
        page.goto(self.admin[0].base + "/")
        page.until("document.querySelectorAll('#servers tr').length === 3")
        return page

    def visit(self, *users: str) -> list[str]:
        return [
            CLIENT.get(f"http://127.0.0.1:{self.web[0]}/", headers={"Cookie": f"sid={user}"}).headers["x-served-by"]
            for user in users
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("dashboard")
    ports = free_ports(3 + 4)
    upstreams, web, admin = ports[:3], ports[3:5], ports[5:]
    with Memcached() as store, running(*start_upstreams(directory, upstreams)):
        replicas = [
            start_administered(
                directory,
                f"fr{n}",
                port=web[n],
                admin_port=admin[n],
                upstream_ports=upstreams,
                zone=ZONES[n],
                memcached=[store.address],
                admin_more=f'read_token = "file:{directory}/fr{n}.read"\n',
            )
            for n in range(2)
        ]
        with running(*replicas), Browser() as browser:
            yield Site(browser, web, admin, [f"up-{port}" for port in upstreams])
    unlink_zone(*ZONES)


@pytest.fixture(autouse=True)
def nothing_stays_ordered(site: Site) -> Iterator[None]:
    yield
    for name in site.names:
        site.admin[0].order(name, state="ready", weight=None, scope="fleet")


def row(name: str) -> str:
    return f"#servers tr[data-id='app/{name}']"


def button(name: str, act: str) -> str:
    return f"{row(name)} button[data-act={act}]"


def test_it_shows_servers_pools_and_charts_and_asks_nobody_else(site: Site) -> None:
    site.visit(*(f"shown-{n}" for n in range(12)))
    page = site.page()
    for name in site.names:
        cells = page.text(row(name)).split("\t")
        assert cells[:3] == ["app", name, "ready"]
        until(lambda n=name: int(page.text(row(n)).split("\t")[7]) >= 1, "its bindings are counted")
    assert "round-robin" in page.text("#pools")
    page.until("document.querySelectorAll('#charts svg polyline').length >= 7", "six charts, one of two lines")
    page.until("document.querySelector('#health').innerText === 'ready'")
    page.until("document.querySelector('#charts .line').getAttribute('points').split(' ').length > 1", "samples")
    assert all(url.startswith((site.admin[0].base, "data:")) for url in page.requested)
    assert page.complaints == []


def test_a_click_that_drains_a_server_is_seen_in_where_users_go(site: Site) -> None:
    users = [f"click-{n}" for n in range(12)]
    before, out = site.visit(*users), site.names[0]
    page = site.page()
    page.until("fleet && fleet.store", "the fleet is known")
    page.click(button(out, "draining"))
    assert page.until("document.querySelector('#sure').open")
    assert out in page.text("#question")
    page.click("#everywhere")
    page.click("#yes")
    page.until(f"document.querySelector({json.dumps(row(out))}).innerText.includes('draining')")
    assert "draining" in page.text("#note")
    until(lambda: site.admin[1].server(out)["state"] == "draining", "the other replica follows")
    assert site.visit(*users) == before
    replicas = ",".join(f"127.0.0.1:{port}" for port in site.web)
    command = [sys.executable, str(shared("tools", "agree.py")), "--replicas", replicas, "--sessions", "48"]
    answered_before = site.admin[0].server(out)["requests_total"] + site.admin[1].server(out)["requests_total"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    answered = site.admin[0].server(out)["requests_total"] + site.admin[1].server(out)["requests_total"]
    assert answered == answered_before, "none of agree.py's new sessions went there"
    page.until("document.querySelector('#orders').innerText.includes('dashboard')", "who ordered it is shown")
    page.until("document.querySelector('#events').innerText.includes('ready to draining')", "the flip is told")
    assert page.complaints == []


def test_nothing_happens_before_it_is_confirmed(site: Site) -> None:
    page = site.page()
    page.click(button(site.names[1], "maintenance"))
    page.until("document.querySelector('#sure').open")
    page.press("Enter")  # what stands ready is to leave it
    page.until("!document.querySelector('#sure').open")
    page.click(button(site.names[1], "maintenance"))
    page.until("document.querySelector('#sure').open")
    page.press("Escape")
    page.until("!document.querySelector('#sure').open")
    assert site.admin[0].server(site.names[1])["state"] == "ready"


@pytest.mark.parametrize(("token", "says"), [("", "operator's token"), (READ_TOKEN, "may read, not change")])
def test_without_the_operators_token_a_click_changes_nothing_and_says_why(site: Site, token: str, says: str) -> None:
    page = site.browser.open(site.admin[0].base + "/")
    page.type("#token", READ_TOKEN)
    page.press("Enter")
    page.until("document.querySelectorAll('#servers tr').length === 3")
    if not token:
        page.evaluate("token = ''")
    page.click(button(site.names[0], "draining"))
    page.click("#yes")
    page.until(f"document.querySelector('#note').innerText.includes({json.dumps(says)})")
    assert site.admin[0].server(site.names[0])["state"] == "ready"


def test_it_is_used_by_keyboard_alone(site: Site) -> None:
    page = site.page()
    page.press("/")
    assert page.until("document.activeElement.id === 'find'")
    page.evaluate("document.querySelector('#servers tr').focus()")
    page.press("ArrowDown")
    chosen = str(page.until("document.activeElement.dataset.id")).removeprefix("app/")
    page.press("w")
    page.until("document.activeElement.id === 'weight'")
    page.send("Input.insertText", text="7")
    page.evaluate("document.querySelector('#yes').focus()")
    page.press("Enter")
    until(lambda: site.admin[0].server(chosen)["weight"] == 7, "the weight is ordered")
    page.until("document.activeElement.dataset.id", "the focus is back in the row")
    # the tab key reaches the token, the filter and a row
    page.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(40):
        page.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"token", "find", "TR", "key"} <= seen


def test_a_key_is_explained(site: Site) -> None:
    (served,) = site.visit("explained")
    page = site.page()
    page.type("#key", "explained")
    page.click("#explain button")
    page.until("!document.querySelector('#answer').hidden && document.querySelector('#answer b')")
    assert page.text("#answer b") == served
    assert len(page.evaluate("[...document.querySelectorAll('#answer li')].map(one => one.innerText)")) == 3


def test_all_bindings_of_a_server_are_released_by_a_click(site: Site) -> None:
    users = [f"let-go-{n}" for n in range(9)]
    out = site.visit(*users)[0]
    site.admin[0].order(out, state="draining")
    page = site.page()
    page.click(button(out, "release"))
    page.click("#yes")
    page.until("/bindings moved/.test(document.querySelector('#note').innerText)")
    until(lambda: out not in site.visit(*users), "they go elsewhere")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read_on_its_ground(site: Site, dark: bool) -> None:
    page = site.page(dark=dark)
    found = page.evaluate(
        """(() => {
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4, share = [.2126, .7152, .0722];
        const light = text => text.match(/[\\d.]+/g).slice(0, 3).reduce((s, v, i) => s + linear(v / 255) * share[i], 0);
        const ground = one => { for (; one; one = one.parentElement) { const c = getComputedStyle(one).backgroundColor;
            if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        const worst = [], texts = 'h1, h2, td, th button, label, button, .dim, figcaption, .foot, .pill';
        for (const one of document.querySelectorAll(texts)) {
            if (!one.innerText || !one.offsetParent) continue;
            const a = light(getComputedStyle(one).color), b = light(ground(one));
            const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (ratio < 4.5) worst.push([one.tagName, one.className, one.innerText.slice(0, 20), ratio]);
        }
        return worst; })()"""
    )
    assert found == [], "WCAG 2.1, 1.4.3: at least 4.5 to 1"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark


def test_it_works_at_a_thousand_servers(tmp_path: pathlib.Path, site: Site) -> None:
    web, admin = free_ports(2)
    zone = f"dashboard-many{os.getpid()}"
    ports = list(range(9000, 10_000))  # nobody connects to them, and none of them is a listener's (tests.support.ports)
    with running(
        start_administered(tmp_path, "many", port=web, admin_port=admin, upstream_ports=ports, zone=zone, workers=1)
    ):
        page = site.browser.open(f"http://127.0.0.1:{admin}/healthz")
        page.evaluate(f"sessionStorage.setItem('fastroute-token', {json.dumps(TOKEN)})")
        page.goto(f"http://127.0.0.1:{admin}/")
        page.until("document.querySelectorAll('#servers tr').length === 200")
        assert page.text("#shown") == "200 of 1000"
        page.click("#more")
        page.until("document.querySelectorAll('#servers tr').length === 1000")
        cost_ms = page.evaluate("(() => { const at = performance.now(); draw(); return performance.now() - at; })()")
        assert cost_ms < 1000, "a look every two seconds leaves the page free"
        page.type("#find", "up-9777")
        page.until("document.querySelectorAll('#servers tr').length === 1")
        page.click(button("up-9777", "draining"))
        page.click("#yes")
        until(lambda: Admin(admin).server("up-9777")["state"] == "draining", "it is ordered")
        assert page.complaints == []
    unlink_zone(zone)


def test_the_page_is_refused_to_other_sites(site: Site) -> None:
    answer = site.admin[0].ask("GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    page = site.browser.open(site.admin[0].base + "/healthz")
    told = page.evaluate(
        f"""fetch({json.dumps(site.admin[0].base + "/api/v1/pools/app/servers/" + site.names[0])}, {{method: "POST",
        mode: "no-cors", body: JSON.stringify({{state: "draining"}})}}).then(one => one.status, () => 0)"""
    )
    assert told in (0, 401)
    assert site.admin[0].server(site.names[0])["state"] == "ready"
