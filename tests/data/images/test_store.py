"""Decoding: canonical sizes, windows, orientation, damaged files."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.doctor.checks import examine, verdict
from data.images.letterbox import fit_side
from data.images.store import ImageStore, canonical_sizes, read_canonical, read_image, read_whole, reduction
from data.index import load_index
from data.labels.records import Record
from tests.data import makers
from tests.data.pictures import make_records, smooth


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
@pytest.mark.parametrize("side", [120, 95, 50, 25, 13])
def test_canonical_images_keep_the_geometry(tmp_path, suffix, side):
    """Whatever libjpeg shrinks while decoding, the image lies where averaging the whole one puts it."""
    record = make_records(tmp_path, [(123, 201)], suffix=suffix)[0]
    size = tuple(canonical_sizes(np.array([[123, 201]]), side)[0].tolist())
    assert size == fit_side((123, 201), side)
    whole = read_whole(record)
    assert whole.shape == (123, 201, 3)
    want = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA)
    assert np.array_equal(read_canonical(record, size, exact=True), want)
    error = np.abs(read_canonical(record, size).astype(int) - want)
    assert error.mean() < 3 and error[-3:].mean() < 4 and error[:, -3:].mean() < 4


def test_canonical_sizes():
    sizes = np.array([[480, 640], [1000, 3000], [100, 60], [400, 333]])
    assert canonical_sizes(sizes, 640).tolist() == [[480, 640], [213, 640], [100, 60], [400, 333]]
    assert canonical_sizes(sizes, 640, enlarge=2).tolist() == [[480, 640], [213, 640], [100, 60], [640, 533]]
    assert canonical_sizes(np.zeros((0, 2), int), 640).shape == (0, 2)


def test_a_window_is_cut_out_of_its_file(tmp_path):
    record = make_records(tmp_path, [(123, 201)], suffix=".png")[0]
    whole = read_whole(record)
    part = Record(record.path, 1, 60, 80, np.zeros((0, 4), np.float32), np.zeros(0, np.int64),
                  window=(100, 50, 180, 110), full=(123, 201))
    assert np.array_equal(read_canonical(part, (60, 80)), whole[50:110, 100:180])
    assert read_canonical(part, (30, 40)).shape == (30, 40, 3)
    stores = [ImageStore([part, part, record], 40, cache) for cache in (None, "ram", "disk")]
    for i in range(3):
        images = [store.load(i)[0] for store in stores]
        assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])
        assert images[0].shape == ((30, 40, 3) if i < 2 else (24, 40, 3))


def test_orientation_follows_the_frame_of_the_labels(tmp_path):
    image = smooth(60, 100)
    path = tmp_path / "turned.jpg"
    path.write_bytes(_jpeg(image, orientation=6))
    assert read_image(str(path)).shape == (100, 60, 3)
    turned, stored = read_whole(_record(path, 100, 60)), read_whole(_record(path, 60, 100))
    assert turned.shape == (100, 60, 3) and stored.shape == (60, 100, 3)
    assert np.abs(turned.astype(int) - cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)).mean() < 2
    assert read_whole(_record(path, 60, 100), 2).shape == (30, 50, 3)


def test_grey_and_deep_pngs_come_as_three_bytes(tmp_path):
    deep = np.full((5, 7, 3), 9 * 257, np.uint16)
    deep[0, 0] = 65535  # all 16 bits are used
    for name, image in (("grey", np.full((5, 7), 9, np.uint8)), ("deep", deep),
                        ("alpha", np.full((5, 7, 4), 9, np.uint8))):
        path = tmp_path / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        loaded = read_image(str(path))
        assert loaded.shape == (5, 7, 3) and loaded.dtype == np.uint8 and (loaded[1:] == 9).all()


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
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


def test_labels_of_the_unturned_image_are_told(tmp_path):
    yaml = makers.coco(tmp_path, [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 20], "iscrowd": 0,
                                   "area": 600}])
    (tmp_path / "train2017" / "a.jpg").write_bytes(_jpeg(smooth(makers.HEIGHT, makers.WIDTH), orientation=6))
    index = load_index(yaml, "train", cache=False)
    assert (index.records[0].height, index.records[0].width) == (makers.HEIGHT, makers.WIDTH)
    assert index.report.count("unturned_image") == 1 and "turned_image" not in index.report.findings
    findings, *_ = examine(index, "train", 640)
    assert any("detection turns such files; the first: " in reason and "a.jpg" in reason
               and "take the orientation out" in reason for reason in verdict(findings)[1])
