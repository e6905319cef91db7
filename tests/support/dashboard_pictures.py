"""Makes the pictures of the dashboard in docs/images anew, from two real replicas with users.

    python -m tests.support.dashboard_pictures [DIRECTORY] [--phone]

--phone makes one of 390 and one of 1000 pixels' width too. Not a test: run it when the page has changed.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import sys
import tempfile
import time

from tests.support.admin import CLIENT, TOKEN, Admin, start_administered
from tests.support.browser import Browser
from tests.support.fleet import free_ports, running, start_upstreams, unlink_zone
from tests.support.memcached import Memcached

WIDTH, HEIGHT = 1320, 1130
USERS = 400
SECONDS = 45.0
"""Of users, so that the charts have something to show."""


def _users(ports: list[int], seconds: float, orders: dict[float, tuple[str, dict[str, object]]], admin: Admin) -> None:
    begun = time.monotonic()
    for number in itertools.count():
        passed = time.monotonic() - begun
        if passed > seconds:
            return
        for at in [at for at in orders if at <= passed]:
            name, order = orders.pop(at)
            admin.order(name, **order)
        user = (number * 7919) % USERS
        CLIENT.get(f"http://127.0.0.1:{ports[number % 2]}/", headers={"Cookie": f"sid=user-{user}"})
        time.sleep(0.03 + 0.02 * (number % 5 == 0))


def main(directory: pathlib.Path, phone: bool) -> None:
    """Take the pictures."""
    ports = free_ports(6 + 4)
    upstreams, web, admin = ports[:6], ports[6:8], ports[8:]
    zones = [f"pictures{os.getpid()}-{n}" for n in range(2)]
    with (
        tempfile.TemporaryDirectory() as made,
        Memcached() as store,
        running(*start_upstreams(pathlib.Path(made), upstreams)),
    ):
        replicas = [
            start_administered(
                pathlib.Path(made),
                f"fr{n}",
                port=web[n],
                admin_port=admin[n],
                upstream_ports=upstreams,
                zone=zones[n],
                workers=2,
                memcached=[store.address],
                admin_more='[pools.app.health]\ncheck = "tcp"\n',
            )
            for n in range(2)
        ]
        with running(*replicas), Browser() as browser:
            first = Admin(admin[0])
            names = [f"up-{port}" for port in upstreams]
            orders: dict[float, tuple[str, dict[str, object]]] = {
                SECONDS * 0.6: (names[1], {"state": "draining", "scope": "fleet", "by": "anna@ops-1"}),
                SECONDS * 0.7: (names[3], {"state": "maintenance", "by": "bert@ops-2"}),
                SECONDS * 0.8: (names[2], {"weight": 3, "by": "anna@ops-1"}),
            }
            page = browser.open(first.base + "/healthz", width=WIDTH, height=HEIGHT)
            page.evaluate(f"sessionStorage.setItem('fastroute-token', {json.dumps(TOKEN)})")
            page.goto(first.base + "/")
            _users(web, SECONDS, orders, first)
            page.type("#key", "user-7")
            page.press("Enter")
            page.until("document.querySelectorAll('#answer li').length === 6")
            page.evaluate("document.activeElement.blur()")
            for name, dark in (("light", False), ("dark", True)):
                page.resize(WIDTH, HEIGHT, dark=dark)
                page.screenshot(directory / f"dashboard-{name}.png")
            if phone:
                page.resize(1000, 900)
                page.screenshot(directory / "dashboard-narrow.png")
                page.resize(390, 2400)
                page.screenshot(directory / "dashboard-phone.png")
                said = "document.documentElement.scrollWidth + ' of ' + innerWidth + ' pixels wide'"
                print(page.evaluate(said), page.complaints)
    unlink_zone(*zones)


if __name__ == "__main__":
    places = [word for word in sys.argv[1:] if not word.startswith("--")]
    images = pathlib.Path(__file__).resolve().parents[2] / "docs" / "images"
    main(pathlib.Path(places[0]) if places else images, "--phone" in sys.argv)
