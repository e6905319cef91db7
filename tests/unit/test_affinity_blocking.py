"""The blocking affinity's one thread: it ends whatever happens, and nothing stays trusted without it."""

from __future__ import annotations

import threading

import pytest

from fastroute import Pool, Server
from fastroute.affinity import blocking
from fastroute.affinity.blocking import Affinity


class Store:
    """A store that is away, and says so as it likes."""

    up_nodes = ()

    def __init__(self) -> None:
        self.asked = threading.Event()

    def noop(self):
        self.asked.set()
        raise RuntimeError("no connection is left in the pool")


@pytest.fixture
def affinity(monkeypatch):
    monkeypatch.setattr(blocking, "RETURN_CHECK_S", 0.001)
    made = Affinity(Store())  # type: ignore[arg-type]
    made.attach(Pool("app", [Server("10.0.0.1:80", name="S1")]))
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_is_trusted_for_ever_when_the_look_for_the_store_fails(affinity):
    affinity._note_down()
    watch = affinity._return_watch
    assert affinity.store.asked.wait(10)
    if watch is not None:
        watch.join(10)
    assert affinity._return_watch is None
    assert not any(view.trust_stale for view in affinity.views)


def test_thread_that_ends_while_the_affinity_is_closed_is_no_error(affinity):
    class Ending:
        joined = False

        def is_alive(self) -> bool:
            affinity._return_watch = None
            return True

        def join(self) -> None:
            Ending.joined = True

    affinity._return_watch = Ending()
    affinity.close()
    assert Ending.joined
