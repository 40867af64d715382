"""Decoding: reduced sizes, orientation, damaged files, the RAM cache."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

import data.images
from data.images import ImageStore, read_for, read_image, reduction
from data.records import Record
from tests.data.pictures import make_records, smooth
from utils.errors import UserError


def _record(path: Path, height: int, width: int) -> Record:
    return Record(str(path), 1, height, width, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def _jpeg(image: np.ndarray, orientation: int | None = None) -> bytes:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    if orientation is None:
        return data
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(("scale", "reduce"),
                         [(2, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.01, 64)])
def test_only_detail_that_would_be_lost_anyway_is_left_out(scale, reduce):
    assert reduction(scale) == reduce


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("reduce", [2, 4, 8, 16])
def test_reduced_decoding_keeps_the_geometry(tmp_path, suffix, reduce):
    record = make_records(tmp_path, [(123, 201)], suffix=suffix)[0]
    full, one = read_for(record)
    small, (sx, sy) = read_for(record, reduce)
    assert full.shape == (123, 201, 3) and one == (1.0, 1.0)
    assert small.shape[0] == pytest.approx(123 / reduce, abs=1) and sx == pytest.approx(1 / reduce, rel=0.05)
    # Pixel (x, y) of the small image shows the point ((x + .5) / sx, (y + .5) / sy) of the full one.
    back = np.array([[1 / sx, 0, (0.5 / sx) - 0.5], [0, 1 / sy, (0.5 / sy) - 0.5]])
    averaged = cv2.blur(full, (reduce, reduce), borderType=cv2.BORDER_REPLICATE) if reduce > 2 else full
    want = cv2.warpAffine(averaged, back, (small.shape[1] - 1, small.shape[0] - 1),
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    error = np.abs(small[1:-2, 1:-2].astype(int) - want[1:-1, 1:-1])
    assert error.mean() < 3


def test_orientation_follows_the_frame_of_the_labels(tmp_path):
    image = smooth(60, 100)
    path = tmp_path / "turned.jpg"
    path.write_bytes(_jpeg(image, orientation=6))
    assert read_image(str(path)).shape == (100, 60, 3)
    turned, _ = read_for(_record(path, 100, 60))
    stored, _ = read_for(_record(path, 60, 100))
    assert turned.shape == (100, 60, 3) and stored.shape == (60, 100, 3)
    assert np.abs(turned.astype(int) - cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)).mean() < 2
    assert read_for(_record(path, 60, 100), 2)[0].shape == (30, 50, 3)


def test_grey_and_deep_pngs_come_as_three_bytes(tmp_path):
    for name, image in (("grey", np.full((5, 7), 9, np.uint8)), ("deep", np.full((5, 7, 3), 9 * 257, np.uint16)),
                        ("alpha", np.full((5, 7, 4), 9, np.uint8))):
        path = tmp_path / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        loaded = read_image(str(path))
        assert loaded.shape == (5, 7, 3) and loaded.dtype == np.uint8 and (loaded == 9).all()


@pytest.mark.parametrize("cache", [None, "ram"])
def test_damaged_files_are_told_once_and_counted(tmp_path, cache):
    records = make_records(tmp_path, [(40, 60)] * 5)
    whole = Path(records[1].path).read_bytes()
    Path(records[1].path).write_bytes(whole[:len(whole) // 2])
    Path(records[2].path).write_bytes(b"")
    Path(records[3].path).unlink()
    records[4].height = 41  # the file has changed since it was indexed
    with pytest.warns(UserWarning, match="cannot be decoded") as told:
        store = ImageStore(records, 64, cache)
        loaded = [store.load(i) for i in range(5) for _ in range(2)]
    assert [x is None for x in loaded] == [False] * 2 + [True] * 8
    assert sorted(str(w.message).split(":")[0] for w in told) == [r.path for r in records[1:]]
    assert store.damaged == [r.path for r in records[1:]]


def test_ram_cache_holds_the_resized_images(tmp_path):
    records = make_records(tmp_path, [(40, 60), (300, 200), (64, 64)])
    store = ImageStore(records, 64, "ram")
    for record in records:
        Path(record.path).unlink()  # from now on only memory can answer
    for i, (h, w) in enumerate([(43, 64), (64, 43), (64, 64)]):
        image, scale = store.load(i)
        assert image.shape == (h, w, 3)
        assert scale == pytest.approx((w / records[i].width, h / records[i].height))
        want = cv2.resize(smooth(records[i].height, records[i].width, i), (w, h), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - want).mean() < 3
    small, scale = store.load(2, 0.25)
    assert small.shape == (16, 16, 3) and scale == (0.25, 0.25)


def test_a_cache_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    records = make_records(tmp_path, [(40, 60)])
    monkeypatch.setattr(data.images, "_free_memory", lambda: 100.0)
    with pytest.raises(UserError, match="leave the cache off"):
        ImageStore(records, 64, "ram")
    with pytest.raises(UserError, match="'tape'"):
        ImageStore(records, 64, "tape")
