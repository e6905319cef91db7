"""Outlier ejection as values: how long, how many, never the last."""

from __future__ import annotations

from fastroute.health.outlier import LONGEST_S, Outliers


def test_each_ejection_in_a_row_is_longer_up_to_the_longest():
    outliers, now_s, times = Outliers(eject_s=30, max_ejected_ratio=0.5), 0.0, []
    for _ in range(12):
        out_s = outliers.failed("a", now_s=now_s, servers=4, ejected=0, others_ready=3)
        times.append(out_s)
        now_s += out_s + 1
    assert times == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    assert LONGEST_S == 300


def test_a_server_that_stayed_in_as_long_as_it_was_out_begins_again():
    outliers = Outliers(eject_s=30, max_ejected_ratio=0.5)
    assert outliers.failed("a", now_s=0, servers=4, ejected=0, others_ready=3) == 30
    assert outliers.failed("a", now_s=60, servers=4, ejected=0, others_ready=3) == 30
    assert outliers.failed("a", now_s=91, servers=4, ejected=0, others_ready=3) == 60


def test_neither_the_last_nor_more_than_the_share():
    outliers = Outliers(eject_s=30, max_ejected_ratio=0.5)
    assert outliers.failed("a", now_s=0, servers=4, ejected=0, others_ready=0) is None
    assert outliers.failed("a", now_s=0, servers=4, ejected=2, others_ready=1) is None
    assert outliers.failed("a", now_s=0, servers=3, ejected=1, others_ready=1) is None
    assert outliers.failed("a", now_s=0, servers=1, ejected=0, others_ready=3) is None
