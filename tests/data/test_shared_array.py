"""Memory that workers share, forked and spawned."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from data.shared_array import SharedArray

METHODS = [m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


def _double(shared: SharedArray, text: SharedArray, answer) -> None:
    shared.array[1] *= 2
    answer.send((shared.array.shape, shared.array.dtype.name, bytes(text.array), text.array.flags.writeable))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("named", [False, True])
def test_what_one_process_writes_the_other_sees(tmp_path, monkeypatch, method, named):
    if named:  # as on systems without memfd_create
        monkeypatch.delattr(os, "memfd_create", raising=False)
    (tmp_path / "text").write_bytes(b"words")
    shared, text = SharedArray((3, 4), np.int64), SharedArray.map_file(tmp_path / "text")
    assert (shared.array == 0).all()
    shared.array[1] = 21
    (tmp_path / "text").unlink()  # what is mapped stays
    context = multiprocessing.get_context(method)
    answer, sent = context.Pipe(duplex=False)
    process = context.Process(target=_double, args=(shared, text, sent))
    process.start()
    assert answer.poll(60) and answer.recv() == ((3, 4), "int64", b"words", False)
    process.join(60)
    assert process.exitcode == 0 and (shared.array == [[0], [42], [0]]).all()


def test_it_is_handed_over_only_while_a_process_starts():
    with pytest.raises(RuntimeError):
        pickle.dumps(SharedArray(3))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")  # noqa: PTH112
def test_descriptors_are_closed():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    kept = [SharedArray(n).array for n in (0, 5)]
    assert all((array == 0).all() for array in kept)
    del kept
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
