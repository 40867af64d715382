"""Many files in threads, and what a process that is forked afterwards must not inherit."""

import multiprocessing
import threading
import time

import numpy as np
import pytest
import torch

import data.images.store
from data.augment.policies.yolo import YoloPolicy
from data.file_threads import in_threads
from data.images.store import ImageStore
from data.loading.device_loader import DeviceImages
from tests.data.pictures import make_records


@pytest.mark.parametrize("count", [0, 1, 7, 100, 5000])
def test_each_is_called_once_and_answers_come_in_order(count):
    calls = []
    assert list(in_threads(lambda k: calls.append(k) or -k, range(count))) == [-k for k in range(count)]
    assert sorted(calls) == list(range(count))


def test_an_error_comes_through_and_no_call_is_left_at_work():
    running = set()

    def call(k: int) -> int:
        running.add(k)
        time.sleep(0.01)
        running.discard(k)
        return 1 // k

    with pytest.raises(ZeroDivisionError):
        list(in_threads(call, range(100)))
    assert not running
    some = in_threads(call, range(1, 100))
    assert next(some) == 1
    some.close()
    assert not running


@pytest.mark.parametrize("cache", ["ram", "disk", "gpu"])
def test_threads_that_decoded_live_on(tmp_path, monkeypatch, cache):
    """One that ends holds OpenCV's locks for a moment longer: workers that are forked then would hang."""
    threads, decode = set(), data.images.store.decode_as
    monkeypatch.setattr(data.images.store, "decode_as",
                        lambda *args, **options: threads.add(threading.current_thread()) or decode(*args, **options))
    store = ImageStore(make_records(tmp_path, [(40, 60), (64, 48), (50, 50)]), 64, None if cache == "gpu" else cache)
    if cache == "gpu":
        DeviceImages(store, torch.device("cpu"), 1, YoloPolicy().fill_bgr)
    assert threads and threading.main_thread() not in threads and all(thread.is_alive() for thread in threads)


def _squares(queue) -> None:
    queue.put(list(in_threads(np.square, [1, 2, 3])))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
def test_a_forked_process_has_threads_of_its_own():
    assert list(in_threads(np.square, [4])) == [16]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_squares, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == [1, 4, 9]
    process.join(60)
    assert process.exitcode == 0
