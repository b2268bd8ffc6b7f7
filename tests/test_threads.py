import threading
import time

import pytest

from attnflow_hf import threads
from attnflow_hf.threads import map_ahead, n_threads_of_call


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(threads, "n_cores", lambda: 4)


def test_results_come_in_order_whatever_takes_longest():
    def slow(number):
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number * number

    assert list(map_ahead(slow, range(20), n_threads=4, n_waiting=5)) == [number**2 for number in range(20)]


def test_items_are_taken_in_the_callers_thread_while_others_are_worked_on():
    takers, workers, begun = set(), set(), threading.Event()

    def items():
        for number in range(6):
            takers.add(threading.current_thread())
            if number == 5:
                assert begun.wait(5)  # the first items are worked on before the last one is taken
            yield number

    def work(number):
        workers.add(threading.current_thread())
        begun.set()
        return number

    assert list(map_ahead(work, items(), n_threads=4, n_waiting=10)) == list(range(6))
    assert takers == {threading.current_thread()}
    assert not takers & workers


def test_in_turns_no_item_is_taken_while_others_are_worked_on():
    at_work, lock = [], threading.Lock()

    def items():
        for number in range(11):
            if number % 4 == 0:
                assert not at_work  # all four before are done
            yield number

    def work(number):
        with lock:
            at_work.append(number)
        time.sleep(0.01)
        with lock:
            at_work.remove(number)
        return number

    assert list(map_ahead(work, items(), n_threads=4, n_waiting=4, is_ahead=False)) == list(range(11))


@pytest.mark.parametrize("n_waiting", [1, 3])
def test_no_more_items_wait_than_allowed(n_waiting):
    taken, given = [], []

    def items():
        for number in range(12):
            assert len(taken) - len(given) <= n_waiting
            taken.append(number)
            yield number

    for result in map_ahead(lambda number: number, items(), n_threads=4, n_waiting=n_waiting):
        given.append(result)
    assert given == list(range(12))


def test_an_exception_comes_when_its_result_is_due_and_ends_the_rest():
    done = []

    def work(number):
        if number == 2:
            raise ValueError("the third")
        time.sleep(0.01)
        done.append(number)
        return number

    results = map_ahead(work, range(100), n_threads=4, n_waiting=50)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert len(done) < 60  # those that waited were given up


def test_what_is_not_wanted_any_more_is_given_up():
    done = []
    results = map_ahead(lambda number: time.sleep(0.01) or done.append(number), range(100), n_threads=4, n_waiting=50)
    next(results)
    results.close()
    assert len(done) < 60


def test_calls_in_threads_share_the_cores():
    def share(n_threads):
        return set(map_ahead(lambda _: n_threads_of_call(otherwise=7), range(9), n_threads=n_threads, n_waiting=9))

    assert share(0) == {7}  # in the caller's own thread
    assert share(1) == {4}
    assert share(2) == {2}
    assert share(3) == share(9) == {1}
    assert n_threads_of_call(otherwise=7) == 7
