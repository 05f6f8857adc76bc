"""Working ahead changes nothing but the time: order, errors and early ends are as without it."""

import threading
import time

import pytest

import ov_encoder as ov
from ov_encoder.codec.ahead import ahead
from tests.clips import video


def test_items_come_in_order_and_few_are_made_early():
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    early = ahead(items(), depth=3)
    assert next(early) == 0
    time.sleep(0.2)
    assert len(made) <= 6  # one given, three waiting, one at the door
    assert list(early) == list(range(1, 50))


def test_an_error_is_raised_where_it_would_have_been():
    def items():
        yield 1
        raise OSError("broken")

    early = ahead(items())
    assert next(early) == 1
    with pytest.raises(OSError, match="broken"):
        next(early)


def test_closing_early_stops_the_thread_and_closes_the_items():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    early = ahead(items())
    next(early)
    early.close()
    assert closed.is_set() and threading.active_count() <= before


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_threads_do_not_change_a_plan(codec):
    data = video("moving_object", codec)
    one, two = (ov.plan(data, threads=n) for n in (1, 2))
    assert (one.keep_THW == two.keep_THW).all() and (one.frames_THWC == two.frames_THWC).all()
