"""Images in order, memory bounded, errors where they belong, threads gone at the end."""

import threading
import time

import pytest
import torch

from engine.inference.overlap import in_order


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("look")}


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_from_several_threads(workers):
    used, before = set(), torch.get_num_threads()

    def work(k: int) -> int:
        used.add(threading.current_thread().name)
        time.sleep(0.002 * (k % 3))
        return k * k

    assert list(in_order(work, iter(range(40)), workers)) == [k * k for k in range(40)]
    assert len(used) == workers and not names() and torch.get_num_threads() == before


def test_as_many_items_are_taken_as_are_in_work():
    taken = []
    items = (taken.append(k) or k for k in range(100))
    results = in_order(lambda k: k, items, 2)
    for done in range(10):
        next(results)
        assert len(taken) <= done + 3
    results.close()
    assert not names() and len(taken) <= 13


def test_an_error_comes_after_the_results_before_it():
    def work(k: int) -> int:
        if k == 5:
            raise ValueError("five")
        time.sleep(0.002)
        return k

    def items():
        yield from range(4)
        raise OSError("the disk")

    for source, error in ((iter(range(9)), ValueError), (items(), OSError)):
        found = []
        with pytest.raises(error):
            for result in in_order(work, source, 3):
                found.append(result)  # noqa: PERF402  what came before the error is asked for
        assert found == list(range(5 if error is ValueError else 4)) and not names()


def test_nothing_to_do():
    assert list(in_order(str, iter(()), 2)) == []


def test_passes_at_the_same_time_share_all_cores():
    """A thread that begins while another has divided the cores does not divide its part again."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        first = in_order(lambda k: k, iter(range(3)), 4)  # a core for each
        assert next(first) == 0
        other = threading.Thread(target=lambda: seen.extend(
            in_order(lambda k: torch.get_num_threads(), iter(range(3)), 2)))
        other.start()
        other.join()
        assert seen == [2, 2, 2] and [*first] == [1, 2] and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
