"""The benchmark of merging runs, alone and beside a peer."""

import numpy as np
import pytest

from benchmarks.merging import __main__ as merging
from utils.errors import UserError


def test_small(tmp_path):
    merging.main(merging.build_parser().parse_args(["--small", "--rounds", "1", "--out", str(tmp_path)]))
    text = (tmp_path / "merging_cpu.md").read_text(encoding="utf-8")
    assert text.count("| IoS |") == 3 and "peer" not in text.partition("| method")[2]


def test_a_peer_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such program"):
        merging.main(merging.build_parser().parse_args(["--small", "--peer", str(tmp_path / "python")]))


def test_differing_boxes_are_counted():
    rows = np.random.default_rng(0).random((20, 6)) * 100
    assert merging.differing(rows, rows[::-1] + 1e-4) == 0
    assert merging.differing(rows, rows[1:]) == 1
    assert merging.differing(rows, np.concatenate((rows[1:], rows[:1] + 1))) == 1
