"""`--cache ram` and `--cache disk`: what they hold, where, and what they refuse."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest

import data.images.image_cache
import data.images.store
from data.images.store import ImageStore
from tests.data.pictures import make_records, smooth
from tests.refusals import refused
from utils.memory import free_memory

SIZES = [(40, 60), (300, 200), (64, 64)]


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _content(store: ImageStore) -> list[np.ndarray]:
    return [store.load(i)[0].copy() for i in range(len(store.records))]


def _count_decodes(monkeypatch) -> list[str]:
    decoded = []
    read = data.images.store.read_whole
    monkeypatch.setattr(data.images.store, "read_whole", lambda r, *a: decoded.append(r.path) or read(r, *a))
    return decoded


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_holds_the_canonical_images(tmp_path, cache):
    records = make_records(tmp_path / "images", SIZES)
    plain, held = ImageStore(records, 64, enlarge=2), ImageStore(records, 64, cache, enlarge=2)
    want = _content(plain)
    for record in records:
        Path(record.path).unlink()  # from now on only the cache can answer
    assert all(map(np.array_equal, _content(held), want))
    for i, (h, w) in enumerate([(43, 64), (64, 43), (64, 64)]):
        image, scale = held.load(i)
        assert image.shape == (h, w, 3) and scale == plain._scale(i)
        assert scale == pytest.approx((w / records[i].width, h / records[i].height))
        whole = smooth(records[i].height, records[i].width, i)
        assert np.abs(image.astype(int) - cv2.resize(whole, (w, h), interpolation=cv2.INTER_AREA)).mean() < 3


def test_the_file_is_read_again_by_a_later_run_until_an_image_changes(tmp_path, monkeypatch):
    records = make_records(tmp_path / "images", SIZES)
    decoded = _count_decodes(monkeypatch)
    first = _content(ImageStore(records, 64, "disk"))
    assert len(decoded) == 3
    assert all(map(np.array_equal, _content(ImageStore(records, 64, "disk")), first)) and len(decoded) == 3
    ImageStore(records, 32, "disk")
    assert len(decoded) == 6 and len(list((tmp_path / "images").glob("*.u8"))) == 2
    os.utime(records[1].path, ns=(1, 1))
    ImageStore(records, 64, "disk")
    assert len(decoded) == 9
    assert len(list((tmp_path / "images").glob("*.u8"))) == 2  # the old file has given way
    assert not [p for p in (tmp_path / "images").iterdir() if p.suffix in (".lock", ".tmp")]


def test_a_torn_file_is_written_again(tmp_path, monkeypatch):
    records = make_records(tmp_path / "images", SIZES)
    want = _content(ImageStore(records, 64, "disk"))
    (file,) = (tmp_path / "images").glob("*.u8")
    file.write_bytes(file.read_bytes()[:-1])
    decoded = _count_decodes(monkeypatch)
    assert all(map(np.array_equal, _content(ImageStore(records, 64, "disk")), want)) and len(decoded) == 3


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
def test_a_damaged_image_stays_damaged_in_a_later_run(tmp_path):
    records = make_records(tmp_path / "images", SIZES)
    Path(records[1].path).write_bytes(b"nothing")
    for _ in range(2):
        store = ImageStore(records, 64, "disk")
        assert store.load(1) is None and store.damaged == [records[1].path] and store.load(2) is not None


def test_read_only_images_are_cached_in_the_users_folder(tmp_path):
    records = make_records(tmp_path / "images", SIZES)
    (tmp_path / "images").chmod(0o555)
    try:
        ImageStore(records, 64, "disk")
    finally:
        (tmp_path / "images").chmod(0o755)
    assert not list((tmp_path / "images").glob("*.u8")) and len(list((tmp_path / "cache").rglob("*.u8"))) == 1


def test_too_little_room_is_told_with_both_numbers(tmp_path, monkeypatch):
    records = make_records(tmp_path / "images", [(40, 60)])
    monkeypatch.setattr(data.images.image_cache, "free_memory", lambda: 100.0)
    with refused("no-memory", "cache ram", "0.0 GiB"):
        ImageStore(records, 64, "ram")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with refused("no-memory", "--cache disk", "0.0 GiB", "images"):
        ImageStore(records, 64, "disk")
    with refused("unknown-value", "'tape'"):
        ImageStore(records, 64, "tape")
    assert not list(tmp_path.rglob("*.u8"))


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch):
    records = make_records(tmp_path / "images", SIZES)
    before = set(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with refused("unwritable-file", "No space left"):
        ImageStore(records, 64, "disk")
    assert {p for p in tmp_path.rglob("*") if p.is_file()} <= before


def test_free_memory_is_what_the_container_leaves(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert free_memory(tmp_path, tmp_path) == 4000 * 1024
    for name, text in (("memory.max", "1000000\n"), ("memory.current", "900000\n"),
                       ("memory.stat", "anon 5\ninactive_file 50000\n")):
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path, tmp_path) == 150000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path, tmp_path) == 4000 * 1024
    assert free_memory(tmp_path / "none", tmp_path / "none") == float("inf")
