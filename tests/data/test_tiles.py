"""Tiles of large images: where they lie, and what becomes of the labels. No pixel is needed for that."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.policies.yolo import YoloPolicy
from data.data_yaml import Source
from data.index import Index
from data.labels.records import Record, RecordTable
from data.labels.scan_report import ScanReport
from data.loading.dataset import DetectionDataset
from data.tiles import starts, tile_index
from tests.data.pictures import random_boxes
from tests.refusals import refused


def make_index(sizes, boxes, ignore=None, polygons=None):
    """An index of images of `sizes` (height, width) with `boxes` each."""
    table = RecordTable.from_records([
        Record(f"/x/{i}.jpg", 100 + i, *size, np.asarray(b, np.float32).reshape(-1, 4), np.zeros(len(b), np.int64),
               None if ignore is None else np.asarray(ignore[i], bool),
               polygons=None if polygons is None else polygons[i])
        for i, (size, b) in enumerate(zip(sizes, boxes, strict=True))])
    crowds = int(table.ignore.sum())
    report = ScanReport(len(table), len(table.labels) - crowds, crowds)
    return Index(table, ["thing"], [1], report, Source(Path("x.yaml"), "yolo", "train", Path(), []))


lengths, tile_sizes, overlaps = st.integers(20, 3000), st.integers(32, 700), st.floats(0, 0.9)


@given(length=lengths, size=tile_sizes, overlap=overlaps)
def test_windows_cover_the_axis_inside_it_with_the_overlap_at_least(length, size, overlap):
    shared = round(size * overlap)
    begin = starts(length, size, shared)
    assert begin[0] == 0 and begin[-1] + min(size, length) == length  # the last one pushed inside
    assert (np.diff(begin) > 0).all() and (np.diff(begin) <= size - shared).all()
    assert len(begin) == 1 or (len(begin) - 2) * (size - shared) + size < length  # no window too many


@given(seed=st.integers(0, 10_000), size=st.integers(32, 300), overlap=st.floats(0.1, 0.7))
@settings(max_examples=25, deadline=None)
def test_what_is_smaller_than_the_overlap_is_whole_in_a_tile(seed, size, overlap):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 900, 2).tolist()
    side = round(size * overlap)
    corner = rng.uniform(0, np.maximum((width - side, height - side), 1), (30, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(1, side, (30, 2))), 1)
    boxes = np.clip(boxes, 0, (width, height) * 2).astype(np.float32)
    tiled = tile_index(make_index([(height, width)], [boxes]), size, overlap).records
    for k, box in enumerate(boxes):
        found = [r.boxes[j] + np.tile((r.window or (0, 0))[:2], 2) for r in tiled
                 for j in np.flatnonzero(r.annotation_ids == k + 1)]
        assert any(np.allclose(f, box, atol=1e-3) for f in found)


@given(seed=st.integers(0, 10_000), size=st.integers(32, 300), overlap=st.floats(0, 0.6))
@settings(max_examples=25, deadline=None)
def test_labels_of_tiles_against_one_box_at_a_time(seed, size, overlap):
    rng = np.random.default_rng(seed)
    sizes = [tuple(s) for s in rng.integers(20, 700, (4, 2)).tolist()]
    boxes = [random_boxes(rng, int(rng.integers(0, 9)), *s) for s in sizes]
    crowds = [rng.random(len(b)) < 0.2 for b in boxes]
    index = make_index(sizes, boxes, crowds)
    tiled = tile_index(index, size, overlap)
    at, ignored = 0, 0
    for i, (height, width) in enumerate(sizes):
        shared = round(size * overlap)
        for y in starts(height, size, shared).tolist():
            for x in starts(width, size, shared).tolist():
                record = tiled.records[at]
                at += 1
                window = (x, y, min(x + size, width), min(y + size, height))
                assert record.image_id == 100 + i and record.path == f"/x/{i}.jpg"
                whole = max(height, width) <= size
                assert (record.window, record.full) == ((None, None) if whole else (window, (height, width)))
                assert (record.height, record.width) == (window[3] - window[1], window[2] - window[0])
                want = []
                for box, crowd in zip(boxes[i].astype(float), crowds[i], strict=True):
                    cut = np.clip(box, (x, y, x, y), (*window[2:], *window[2:]))
                    share = np.prod(cut[2:] - cut[:2]) / np.prod(box[2:] - box[:2])
                    if (cut[2:] > cut[:2]).all():
                        want.append((*(cut - (x, y, x, y)), crowd or share < 1 / 3))
                        ignored += share < 1 / 3 and not crowd
                want = np.array(want, float).reshape(-1, 5)
                assert np.allclose(record.boxes, want[:, :4], atol=1e-3)
                assert record.ignore.tolist() == want[:, 4].astype(bool).tolist()
    assert at == len(tiled) and f"and {ignored} more" in " ".join(tiled.report.notes)
    assert tiled.report.boxes + tiled.report.ignored == len(tiled.records.labels)
    assert index.report.notes == [] and len(index) == 4  # the index that was given is as it was


def test_report_areas_polygons_and_large_objects():
    outline = np.array([[300, 10], [340, 10], [340, 50]], np.float32)
    index = make_index([(100, 400), (50, 60)], [[[300, 10, 340, 50], [0, 0, 400, 100]], [[1, 2, 3, 4]]],
                       polygons=[[outline, np.zeros((0, 2), np.float32)], [np.zeros((0, 2), np.float32)]])
    tiled = tile_index(index, 100, 0.2)
    assert [r.window and r.window[0] for r in tiled.records] == [0, 80, 160, 240, 300, None]
    fourth, last = tiled.records[3], tiled.records[4]
    assert fourth.boxes.tolist() == [[60, 10, 100, 50], [0, 0, 100, 100]] and fourth.ignore.tolist() == [False, True]
    assert last.polygons[0].tolist() == [[0, 10], [40, 10], [40, 50]] and len(last.polygons[1]) == 0
    assert last.areas.tolist() == [1600, 40000] and tiled.counts().sum() == 3  # the one object stands in two tiles
    assert "2 images became 6 tiles (1 images were cut, 1 stay whole)" in tiled.report.format()
    assert "0 boxes are cut, and 5 more" in tiled.report.format()
    assert "1 of the 3 boxes are too large" in tiled.report.format()


def test_images_that_fit_are_left_alone():
    tiled = tile_index(make_index([(60, 64), (10, 10)], [[[0, 0, 64.4, 60]], []]), 64)
    assert tiled.records.windows is None and tiled.records[0].boxes.tolist() == np.float32([[0, 0, 64.4, 60]]).tolist()


@pytest.mark.parametrize(("size", "overlap", "said"), [(31, 0.2, "--tile 31"), (64, 0.95, "--tile-overlap 0.95"),
                                                       (64, float("nan"), "--tile-overlap"), (64, -0.1, "from 0 to")])
def test_wrong_tiles_are_told(size, overlap, said):
    with refused("bad-value", said):
        tile_index(make_index([(100, 100)], [[]]), size, overlap)


def test_tiles_of_tiles_are_refused():
    with refused("flag-conflict", "--tile"):
        tile_index(tile_index(make_index([(100, 100)], [[]]), 64), 32)


def test_half_a_million_labels_pass_in_seconds():
    rng = np.random.default_rng(0)
    n, m = 4000, 500_000
    corner = rng.uniform(0, 1900, (m, 2)).astype(np.float32)
    index = make_index([(1500, 2000)] * 2, [[], []])
    letters = np.frombuffer(b"/x/a.jpg" * n, np.uint8)
    index.records = RecordTable(
        letters, np.arange(1, n + 1) * 8, np.arange(n), np.full((n, 2), 2000, np.int32),
        np.arange(1, n + 1) * (m // n), np.concatenate((corner, corner + 20), 1), np.zeros(m, np.int64),
        np.zeros(m, bool), np.full(m, 400, np.float32), np.arange(m))
    assert len(tile_index(index, 640, 0.2)) == n * 16


def test_pixels_of_tiles_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.png"
    picture = np.random.default_rng(0).integers(0, 255, (100, 150, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    index = make_index([(100, 150)], [[[70, 60, 90, 80]]])
    index.records = RecordTable.from_records([replace(index.records[0], path=str(path))])
    tiled = tile_index(index, 64, 0.25)
    dataset = DetectionDataset(tiled.records, 64)
    for i, record in enumerate(tiled.records):
        x1, y1, x2, y2 = record.window
        sample = dataset[i]
        assert np.array_equal(sample.image, picture[y1:y2, x1:x2, ::-1])
        for x, y, right, bottom in sample.boxes[sample.ignore == 0].astype(int):
            assert 70 <= x + x1 < right + x1 <= 90 and 60 <= y + y1 < bottom + y1 <= 80
    trained = DetectionDataset(tiled.records, 64, YoloPolicy(mosaic9=0.5, copy_paste=0.5))
    assert all(trained[0, i].image.shape == (64, 64, 3) for i in range(len(tiled)))
