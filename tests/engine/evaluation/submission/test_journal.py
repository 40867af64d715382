"""The journal: whole batches come back to the last bit, whatever was cut off or damaged behind them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.evaluation.submission.journal import Journal, compare_settings, read_journals
from tests.refusals import refused
from tests.running import ROOT
from utils.structures import Detections

BATCHES = [([5, 3], [2, 0]), ([1 << 40], [0]), ([7, 8, 9], [1, 0, 3])]


def detections(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Detections:
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=random, dtype=dtype) * 500
    scores = torch.rand(count, generator=random, dtype=dtype).sort(descending=True).values
    return Detections(boxes, scores, torch.randint(80, (count,), generator=random))


def filled(folder: Path, rank: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    journal = Journal(folder, rank)
    for ids, counts in BATCHES:
        journal.append(ids, [detections(count, image, dtype) for image, count in zip(ids, counts, strict=True)])
    journal.close()
    return journal.path


def stored(folder: Path) -> list[list[int]]:
    """The images of each batch; their detections are those that `filled` wrote."""
    batches = []
    for ids, found in read_journals(folder):
        for image, own in zip(ids, found, strict=True):
            expected = detections(len(own), image, own.boxes.dtype)
            assert torch.equal(own.boxes, expected.boxes) and torch.equal(own.scores, expected.scores)
            assert torch.equal(own.labels, expected.labels) and own.labels.dtype == torch.int64
        assert [len(own) for own in found] == next(counts for known, counts in BATCHES if known == ids)
        batches.append(ids)
    return batches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_come_back_as_they_were(tmp_path, dtype):
    filled(tmp_path, 0, dtype)
    assert stored(tmp_path) == [ids for ids, _ in BATCHES]
    filled(tmp_path, 11, dtype)
    assert stored(tmp_path) == 2 * [ids for ids, _ in BATCHES]
    assert list(read_journals(tmp_path / "none")) == []


def test_what_was_cut_off_is_forgotten_and_written_again(tmp_path):
    path = filled(tmp_path)
    whole, ids = path.read_bytes(), [ids for ids, _ in BATCHES]
    ends = [at for at in range(1, len(whole) + 1) if whole.startswith(b"DET1", at) or at == len(whole)]
    assert len(ends) == 3
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert stored(tmp_path) == ids[:kept]
        if cut % 7 == 0:
            journal = Journal(tmp_path, 0)  # cuts the rest off
            journal.append([5, 3], [detections(2, 5), detections(0, 3)])
            journal.close()
            assert stored(tmp_path) == [*ids[:kept], [5, 3]]


def test_a_damaged_batch_ends_what_is_believed(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    second = whole.index(b"DET1", 1)
    for at in range(second, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
        assert stored(tmp_path)[0] == BATCHES[0][0] and len(stored(tmp_path)) < 3


@pytest.mark.slow
def test_one_process_at_a_time_writes_a_journal(tmp_path):
    journal = Journal(tmp_path, 0)
    attempt = (f"from pathlib import Path\nfrom engine.evaluation.submission.journal import Journal\n"
               f"Journal(Path({str(tmp_path)!r}), 0)")
    pytest.importorskip("fcntl")
    done = subprocess.run([sys.executable, "-c", attempt], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "another process writes this submission" in done.stderr
    journal.close()
    assert subprocess.run([sys.executable, "-c", attempt], cwd=ROOT, capture_output=True).returncode == 0


def test_changed_settings_are_named(tmp_path):
    folder = tmp_path / "ours" / "journal"
    compare_settings(folder, {"conf": 0.001, "imgsz": (640, 640), "half": False})
    compare_settings(folder, {"half": False, "imgsz": [640, 640], "conf": 0.001})
    with refused("changed-settings", "ours has detections", "conf 0.001, now 0.01", "half False, now absent",
                 "slice absent, now 640"):
        compare_settings(folder, {"conf": 0.01, "imgsz": [640, 640], "slice": 640})
    (folder / "settings.json").write_text("{")
    with refused("unreadable-file", "remove the folder"):
        compare_settings(folder, {})


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("unwritable-file", "choose another --project"):
        Journal(tmp_path / "file" / "journal", 0)
