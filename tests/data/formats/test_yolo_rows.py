"""Rows of more columns than a box has: keypoints and tracks are never taken for polygons."""

import numpy as np
import pytest

from data.formats.parsing.yolo_rows import parse_rows
from data.index import load_index
from data.labels.scan_report import ScanReport
from tests.data import makers
from tests.refusals import refused
from utils.errors import UserError

BOX = "0 0.25 0.333333 0.25 0.333333"  # 12.5 .. 37.5, 10 .. 30 of 100 x 60
PIXELS = [[12.5, 10, 37.5, 30]]
TWO, THREE = "0.20 0.30 0.22 0.35 0.26 0.40", "0.2 0.3 2 0.22 0.35 2 0.26 0.40 1 0 0 0"


def load(tmp_path, rows, **words):
    """A label file per row, or per text of rows."""
    yaml = makers.yolo(tmp_path, {f"{k:03d}.jpg": row + "\n" for k, row in enumerate(rows)}, **words)
    return load_index(yaml, "train", cache=False, polygons=True)


def boxes(index):
    return [np.round(r.boxes, 3).tolist() for r in index.records]


@pytest.mark.parametrize("tail, shape", [
    (TWO, [3, 2]), (THREE, [4, 3]), (" ".join(["0.2 0.3 2"] * 17), [17, 3]), ("0.2 0.3", [1, 2]), ("0.9 0.9", [1, 2]),
    ("0.2 0.3 2 0.9", [1, 3]), ("0.2 0.3 0.25 0.35 0.8 7", [2, 2]), ("", [17, 3])])
def test_kpt_shape_says_how_many_columns_follow(tmp_path, tail, shape):
    index = load(tmp_path, [f"{BOX} {tail}"] * 2, kpt_shape=shape)
    np.testing.assert_allclose(index.records[0].boxes, PIXELS, atol=1e-3)
    assert not index.report.findings and any("kpt_shape" in note for note in index.report.notes)
    assert [len(p) for p in index.records[0].polygons] == [0]


def test_rows_of_another_length_than_kpt_shape_says_are_told(tmp_path):
    index = load(tmp_path, [f"{BOX} {TWO}", f"{BOX} 0.2 0.3"], kpt_shape=[3, 2])
    assert index.report.boxes == 1 and index.report.count("corrupt_row") == 1
    assert "11 columns or 5" in index.report.format()


@pytest.mark.parametrize("tail", [THREE, " ".join(["0.2 0.3 2"] * 17), "0.87 1", "0.87 12", "0.9 0",
                                  "0.2 0.3 2", "0.2 0.3 0.9 0.25 0.4 0.1 0.21 0.3 0.7", "0.2 0.3 0.25 0.4 0.77"])
def test_columns_that_can_be_no_polygon_leave_the_box(tmp_path, tail):
    index = load(tmp_path, [f"{BOX} {tail}"] * 3)
    np.testing.assert_allclose(index.records[0].boxes, PIXELS, atol=1e-3)
    assert index.report.findings.keys() == {"extra_columns"} and index.report.count("extra_columns") == 3
    assert [len(p) for p in index.records[0].polygons] == [0]


def test_tracks_of_many_objects(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for k in range(40):
        w, h = rng.uniform(0.05, 0.3, 2)
        x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
        rows.append(f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f} {rng.uniform(0.3, 1):.4f} {k}")
    index = load(tmp_path, ["\n".join(rows)])
    assert index.report.boxes == 40 and index.report.count("extra_columns") == 40
    want = [[(x - w / 2) * 100, (y - h / 2) * 60, (x + w / 2) * 100, (y + h / 2) * 60]
            for x, y, w, h in (map(float, row.split()[1:5]) for row in rows)]
    np.testing.assert_allclose(index.records[0].boxes, want, atol=1e-2)


@pytest.mark.parametrize("numbers", [2, 3])
def test_poses_of_many_people_are_never_polygons(tmp_path, numbers):
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(60):
        w, h = rng.uniform(0.05, 0.2), rng.uniform(0.3, 0.6)
        x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
        points = np.c_[rng.uniform(x - w / 2, x + w / 2, 5), rng.uniform(y - h / 2, y + h / 2, 5), np.ones(5)]
        points = points[:, :numbers]
        rows.append(f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f} " + " ".join(f"{v:.6f}" for v in points.ravel()))
    try:
        index = load(tmp_path, ["\n".join(rows)])
    except UserError as error:
        assert "kpt_shape" in str(error) and "set.yaml" in str(error)
    else:
        assert index.report.count("extra_columns") == 60
        assert all(len(p) == 0 for p in index.records[0].polygons)


def test_what_may_be_either_is_refused_with_the_cure(tmp_path):
    with refused("ambiguous-rows", r"000\.txt line 1", "11 columns", "`kpt_shape: none`", r"set\.yaml"):
        load(tmp_path, [f"{BOX} {TWO}"] * 3)
    index = load(tmp_path, [f"{BOX} {TWO}"] * 3, kpt_shape="none")
    assert boxes(index)[0] == [[20, 18, 26, 24]] and [len(p) for p in index.records[0].polygons] == [5]


def turned(x, y, w, h, angle):
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    c, s = np.cos(angle), np.sin(angle)
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def test_oriented_boxes_of_small_objects_are_polygons(tmp_path):
    rng = np.random.default_rng(2)
    shapes = [turned(*rng.uniform(0.1, 0.6, 2), *rng.uniform(0.01, 0.05, 2), rng.uniform(0, 3)) for _ in range(20)]
    index = load(tmp_path, ["\n".join("1 " + " ".join(f"{v:.5f}" for v in s.ravel()) for s in shapes)])
    want = [[*(s.min(0) * (100, 60)), *(s.max(0) * (100, 60))] for s in shapes]
    np.testing.assert_allclose(index.records[0].boxes, want, atol=2e-3)
    assert [len(p) for p in index.records[0].polygons] == [4] * 20 and not index.report.findings


def test_outlines_of_several_lengths_are_polygons(tmp_path):
    def outline(n):
        angle = np.arange(n) / n * 2 * np.pi
        return np.c_[0.4 + 0.02 * np.cos(angle), 0.4 + 0.02 * np.sin(angle)]
    index = load(tmp_path, ["\n".join("0 " + " ".join(f"{v:.5f}" for v in outline(n).ravel()) for n in (5, 6, 8, 11))])
    assert [len(p) for p in index.records[0].polygons] == [5, 6, 8, 11] and index.report.boxes == 4


def test_polygons_beside_boxes_and_a_pose_among_them(tmp_path):
    rows = [".1 .1 .9 .1 .9 .9 .1 .9", ".7 .7 .9 .7 .8 .9", ".8 .1 .9 .1 .9 .2 .85 .3 .8 .2", ".8 .1 .9 .1 .9 .2 .8 .2"]
    index = load(tmp_path, ["0 .5 .5 .2 .2\n" + "\n".join(f"1 {row}" for row in rows), f"{BOX} {THREE}"])
    assert index.report.boxes == 5 and index.report.count("corrupt_row") == 1
    assert "001.txt line 1" in index.report.format() and "of another kind" in index.report.format()
    assert [len(p) for p in index.records[0].polygons] == [0, 4, 3, 5, 4]


@pytest.mark.parametrize("n", [8, 10, 12])
def test_even_numbers_of_columns_that_fit_nothing_are_not_read(tmp_path, n):
    index = load(tmp_path, ["0 .5 .5 .2 .2", " ".join(["0", *["0.9", "0.95", "0.3"] * 4][:n])])
    assert index.report.boxes == 1 and index.report.count("corrupt_row") == 1


@pytest.mark.parametrize("row, kind, box", [
    ("1.000000000000000000e+00 2.5e-01 3.333333333333333148e-01 2.5e-01 3.333333333333333148e-01", None, BOX),
    ("1,0.25,0.333333,0.25,0.333333", "mended_row", BOX), ("1;0.25;0.333333;0.25;0.333333", "mended_row", BOX),
    ("dog 0.25 0.333333 0.25 0.333333", "named_class", BOX), ("1\t0.25\t0.333333\t0.25\t0.333333", None, BOX),
    ("1 0.25 0.333333 0.25 0.333333 dog", "mended_row", BOX),
    ("1 0.25 0.333333 0.25 0.333333 # seen", "mended_row", BOX),
    ("1 0.25 0.333333 0.25 0.333333 0.9", "mended_row", BOX), ("1 0.25 0.333333 -0.25 0.333333", "swapped", BOX),
    ("bird 0.25 0.3 0.25 0.3", "corrupt_row", None), ("1 0.25 0.3 0.25 0_3", "corrupt_row", None),
    ("1 .1 .1 .9 .1 .9 .9 .1 O.9", "corrupt_row", None), ("1 inf 0.3 0.25 0.3", "corrupt_row", None),
    ("1 0,25 0,33 0,25 0,33", "corrupt_row", None), ("1 0.25 0.3 0.25 0.3 7", "corrupt_row", None)])
def test_rows_as_found_in_the_wild(tmp_path, row, kind, box):
    index = load(tmp_path, ["0 .5 .5 .1 .1", row])
    record = index.records[1]
    assert (len(record) == 1) == (box is not None) and index.report.findings.keys() == ({kind} if kind else set())
    if box:
        np.testing.assert_allclose(record.boxes, PIXELS, atol=1e-3)
        assert record.labels.tolist() == [1]


def test_the_parser_alone_tells_what_it_leaves_out():
    report = ScanReport()
    rows = parse_rows("cat 1 2\n\n0 .5 .5 .1 .1\n", "f.txt", report, names={"cat": 0})
    assert len(rows) == 1 and report.count("corrupt_row") == 1


def rows_of(order, seed=0, count=20):
    """Rows of these columns, boxes of which many are near the border."""
    rng, rows = np.random.default_rng(seed), []
    for k in range(count):
        w, h = rng.uniform(0.1, 0.3, 2)
        x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
        known = {"x": x, "y": y, "w": w, "h": h, "id": k, "bit": k % 2, "none": -1, "conf": rng.uniform(0.2, 1),
                 "angle": rng.uniform(-1.5, 1.5), "degrees": rng.integers(0, 90), "x1": x - w / 2, "y1": y - h / 2,
                 "x2": x + w / 2, "y2": y + h / 2}
        rows.append("0 " + " ".join(f"{known[word]:.6g}" for word in order.split()))
    return rows


@pytest.mark.parametrize("order, code, said", [
    ("id x y w h", "ambiguous-rows", "second column"), ("bit x y w h", "ambiguous-rows", "second column"),
    ("none x y w h", "ambiguous-rows", "second column"), ("conf x y w h", "ambiguous-rows", "second column"),
    ("x y w h id", "ambiguous-rows", "no confidence"), ("x y w h angle", "ambiguous-rows", "no confidence"),
    ("x y w h degrees", "ambiguous-rows", "no confidence"), ("x1 y1 x2 y2", "wrong-units", "corners")])
def test_columns_of_another_order_are_refused_not_read_as_boxes(tmp_path, order, code, said):
    with refused(code, said, "000.txt", "line") as caught:
        load(tmp_path, ["\n".join(rows_of(order))])
    assert "000.txt" in str(caught.value) and "line" in str(caught.value)


@pytest.mark.parametrize("order, kind", [("x y w h conf", "mended_row"), ("x y w h bit", "mended_row"),
                                         ("x y w h conf id", "extra_columns"), ("x y w h id conf", "extra_columns")])
def test_confidences_and_ids_leave_the_boxes(tmp_path, order, kind):
    index = load(tmp_path, ["\n".join(rows_of(order))])
    plain = load(tmp_path / "plain", ["\n".join(rows_of("x y w h"))])
    np.testing.assert_allclose(index.records[0].boxes, plain.records[0].boxes, atol=1e-3)
    assert index.report.count(kind) == 20 and set(index.report.findings) == {kind}


def test_few_rows_of_another_order_are_counted(tmp_path):
    index = load(tmp_path, ["\n".join([*rows_of("x y w h"), *rows_of("x y w h id")[5:7]])])
    assert index.report.boxes == 20 and index.report.count("corrupt_row") == 2


def test_rows_of_keypoints_that_fit_nothing_name_kpt_shape(tmp_path):
    index = load(tmp_path, [f"{BOX} " + "0.9 0.9 5 " * 3])
    assert index.report.count("corrupt_row") == 1 and "kpt_shape" in index.report.format()


@pytest.mark.parametrize("text", [f"{BOX}\n".encode("utf-16-le"), f"{BOX}\ngr\xf6\xdfe 1\n".encode("latin-1")])
def test_label_files_that_are_not_utf8_are_told_with_the_cure(tmp_path, text):
    yaml = makers.yolo(tmp_path, {"a.jpg": BOX, "b.jpg": BOX})
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(text)
    index = load_index(yaml, "train", cache=False)
    assert index.report.count("corrupt_label") == 1 and "a.txt (not UTF-8; save it as UTF-8)" in index.report.format()
    (tmp_path / "labels" / "train" / "b.txt").write_bytes(text)
    with refused("no-labels", "`train:`", r"a\.txt", "UTF-8"):
        load_index(yaml, "train", cache=False)
