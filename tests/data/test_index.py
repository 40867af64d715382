"""The check of labels against images: repaired or left out, always told; and the index built on it."""

import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.images.headers import read_header
from data.images.store import read_image
from data.index import load_index
from data.labels.records import Record, RecordTable
from tests.data import makers
from tests.data.pictures import smooth
from tests.refusals import refused
from utils.config import CFG_ROOT
from utils.errors import UserError


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


GOOD = "0 .5 .5 .2 .2\n"


@pytest.mark.parametrize(("text", "kind", "kept", "said"), [
    (GOOD + "2 .5 .5 .1 .1", "bad_class", 1, "a.txt line 2, class 2; there are 2 names, 0 to 1"),
    (GOOD + "-1 .5 .5 .1 .1", "bad_class", 1, "class -1"),
    (GOOD + GOOD + "1 .5 .5 .2 .2", "duplicate", 2, "a.txt line 2"),
    (GOOD + "0 .5 .5 0 .2", "no_area", 1, "a.txt line 2"),
    (GOOD + "0 1.5 .5 .2 .2", "no_area", 1, "a.txt line 2"),
    (GOOD + "0 .5 .5 -.1 .2", "swapped", 2, "a.txt line 2"),
    (GOOD + "0 50 50 20 20", "not_fractions", 1, "a.txt line 2"),
    (GOOD + "1,.5,.5,.1, .2", "mended_row", 2, "a.txt line 2: '1,.5,.5,.1, .2'"),
    (GOOD + "1 .5 .5 .1 .2 .93", "mended_row", 2, "a.txt line 2"),
    (GOOD + "1 .5 .5 .1 .2 93", "corrupt_row", 1, "a.txt line 2"),
    (GOOD + "1 0,5 0,5 0,1 0,2", "corrupt_row", 1, "a.txt line 2"),
    (GOOD + "0 .95 .5 .2 .2", "clipped", 2, "a.txt line 2, by 5.0 px"),
    (GOOD + "0 .5 .5", "corrupt_row", 1, "a.txt line 2: '0 .5 .5'"),
    (GOOD + "0 .5 nan .2 .2", "corrupt_row", 1, "a.txt line 2"),
    (GOOD + "0.5 .5 .5 .2 .2", "corrupt_row", 1, "a.txt line 2"),
])
def test_wrong_rows_are_told_by_file_and_row(tmp_path, text, kind, kept, said):
    yaml = makers.yolo(tmp_path, {"a.jpg": text, "b.jpg": ""})
    index = load(yaml)
    assert index.report.findings.keys() == {kind} and index.report.count(kind) == 1
    assert len(index.records[0]) == kept == index.report.boxes
    assert said in index.report.format()
    with refused("strict-finding") as error:
        load(yaml, strict=True)
    assert "line 2" in str(error.value)


def test_a_split_in_pixels_is_no_split_in_fractions(tmp_path):
    with refused("wrong-units", r"a\.txt line 1"):
        load(makers.yolo(tmp_path, {"a.jpg": "0 50 30 20 20\n1 60 20 10 10"}))


def test_swapped_corners_are_put_right(tmp_path):
    index = load(makers.voc(tmp_path / "voc", {"a": makers.xml(makers.xml_object("cat", 50, 11, 11, 40))}))
    assert index.records[0].boxes.tolist() == [[10, 10, 50, 40]] and index.report.count("swapped") == 1
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [50, 40, -40, -30], "area": 7}
    index = load(makers.coco(tmp_path, [annotation]))
    assert index.records[0].boxes.tolist() == [[10, 10, 50, 40]] and index.report.count("swapped") == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_label_files_of_windows(tmp_path, encoding):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD})
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(GOOD.replace("\n", "\r\n").encode(encoding))
    index = load(yaml, strict=True)
    assert index.report.boxes == 1


def test_clipped_box_ends_at_the_border(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .95 .5 .2 .2\n1 .0 .0 .1 .1"}))
    np.testing.assert_allclose(index.records[0].boxes, [[85, 24, 100, 36], [0, 0, 5, 3]], atol=1e-4)
    np.testing.assert_allclose(index.records[0].areas, [180, 15], atol=1e-2)


def test_rounding_over_the_border_is_not_told(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 1.002 1.0"}), strict=True)
    assert index.records[0].boxes.tolist() == [[0, 0, 100, 60]]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_damaged_images_are_skipped_and_told(tmp_path, suffix):
    names = [f"{stem}{suffix}" for stem in ("cut", "empty", "text", "whole")]
    yaml = makers.yolo(tmp_path, dict.fromkeys(names, GOOD))
    folder = tmp_path / "images" / "train"
    makers.truncate(folder / names[0])
    (folder / names[1]).write_bytes(b"")
    (folder / names[2]).write_text("no image at all")
    index = load(yaml)
    assert [r.path.rsplit("/", 1)[1] for r in index.records] == [names[3]]
    assert index.report.count("corrupt_image") == 3 and f"cut{suffix}" in index.report.format()
    with refused("strict-finding", f"cut{suffix}"):
        load(yaml, strict=True)


def test_no_usable_image_names_the_folder(tmp_path):
    makers.yolo(tmp_path, {"a.jpg": GOOD})
    (tmp_path / "empty").mkdir()
    with refused("no-images", "`train:`", f"{tmp_path}/empty"):
        load(makers.config(tmp_path, train="empty", names=["cat"]))
    makers.truncate(tmp_path / "images" / "train" / "a.jpg")
    with refused("no-images", r"a\.jpg"):
        load(makers.yolo(tmp_path, {}))


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_that_lacks_its_end_only_is_kept_and_told(tmp_path, cut, progressive):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    path = tmp_path / "images" / "train" / "a.jpg"
    jpeg = cv2.imencode(".jpg", smooth(60, 100), [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1]
    path.write_bytes(jpeg.tobytes()[:-cut])
    index = load(yaml)
    assert len(index) == 2 and index.report.count("endless_image") == 1
    assert "a corner of 16 x 16" in index.report.format()
    assert np.array_equal(read_image(str(path)), cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    with refused("strict-finding", r"a\.jpg"):
        load(yaml, strict=True)


@pytest.mark.parametrize("cut", [400, 2000])
def test_truncated_jpeg_is_found_wherever_it_is_cut(tmp_path, cut):
    path = makers.image(tmp_path / "a.jpg", 200, 300)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="cut short"):
        read_header(str(path))


def exif_turned(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF segment, with a thumbnail's end marker in it, after the start of a JPEG."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes((0, orientation)) + b"\x00" * 6
    block = b"Exif\x00\x00" + tiff + b"\xff\xd9" + b"\x00" * 40000
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def test_header_agrees_with_the_decoder(tmp_path):
    path = makers.image(tmp_path / "a.jpg", 33, 77)
    jpeg = path.read_bytes()
    for orientation in range(1, 9):
        path.write_bytes(exif_turned(jpeg, orientation) + b"trailing bytes of a camera")
        header = read_header(str(path))
        assert (header.height, header.width) == cv2.imread(str(path)).shape[:2]
        assert header.turned == (orientation >= 5)
    path.write_bytes(exif_turned(jpeg, 6)[:-40])
    with pytest.raises(ValueError, match="cut short"):  # the thumbnail's end is not the image's
        read_header(str(path))
    for suffix in (".png", ".webp", ".tif"):
        header = read_header(str(makers.image(tmp_path / f"a{suffix}", 33, 77)))
        assert (header.height, header.width) == (33, 77)


def test_labels_made_on_the_stored_image_keep_its_frame(tmp_path):
    size = "<size><width>100</width><height>60</height></size>"
    yaml = makers.voc(tmp_path, {"a": makers.xml(makers.xml_object("cat", 71, 1, 100, 60), size)})
    path = tmp_path / "JPEGImages" / "a.jpg"
    path.write_bytes(exif_turned(path.read_bytes(), 6))
    index = load(yaml)
    assert (index.records[0].height, index.records[0].width) == (60, 100)
    assert index.report.findings.keys() == {"unturned_image"}


def test_single_cls(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2\n1 .2 .2 .2 .2"}), single_cls=True)
    assert index.names == ["item"] and index.category_ids == [1] and index.records[0].labels.tolist() == [0, 0]


def test_subset_and_counts(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2\n1 .5 .5 .9 .9", "b.jpg": "", "c.jpg": GOOD}))
    assert index.counts().tolist() == [[2, 0, 0], [0, 1, 0]]
    assert len(index.subset(2)) == 2 and len(index.subset(99)) == 3
    assert [r.path for r in index.subset([2, 0]).records] == [index.records[2].path, index.records[0].path]
    assert index.subset([2]).counts().tolist() == [[1, 0, 0], [0, 0, 0]]


def test_record_table_is_a_sequence_of_views():
    records = [Record(f"/x/ä{i}.jpg", i, 10, 20, np.full((i, 4), i, np.float32), np.arange(i)) for i in range(4)]
    table = pickle.loads(pickle.dumps(RecordTable.from_records(records)))  # as sent to a worker
    assert len(table) == 4 and [r.path for r in table] == [r.path for r in records]
    assert table[-1].boxes.tolist() == records[3].boxes.tolist() and table[1:3][1].labels.tolist() == [0, 1]
    assert np.shares_memory(table[2].boxes, table.boxes)
    with pytest.raises(IndexError):
        table[4]
    with pytest.raises(ValueError, match="expected boxes"):
        Record("x", 1, 1, 1, np.zeros((2, 4), np.float32), np.zeros(1, np.int64))


def test_every_data_yaml_reads_or_says_what_is_missing():
    for yaml in sorted((CFG_ROOT / "data").glob("*.yaml")):
        if yaml.stem == "shapes":
            continue
        try:
            index = load(yaml.stem, "val")
        except UserError as error:
            assert "is no folder" in str(error)
        else:
            assert index.report.boxes > 0


def test_unknown_names_are_told():
    with refused("unknown-config", "'coco"):
        load("coko")
    with refused("unknown-split", "'train'"):
        load("bccd", "trian")


def test_command_line(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD + "7 .5 .5 .2 .2"})
    command = [sys.executable, "-m", "data", str(yaml), "--no-cache", "--noplots", "--project", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=CFG_ROOT.parent)
    assert told.returncode == 0 and "1 labels of an unknown class" in told.stdout and "small" in told.stdout
    failed = subprocess.run([*command, "--strict"], capture_output=True, text=True, cwd=CFG_ROOT.parent)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1


def windowed(i: int) -> Record:
    outlines = [np.full((k % 2 * (3 + k), 2), 10 * i + k, np.float32) for k in range(i)]
    part = {} if i % 2 else {"window": (i, 1, i + 20, 11), "full": (100, 200)}
    return Record(f"/x/{'y' * i}.jpg", i, 10, 20, np.full((i, 4), i, np.float32), np.arange(i), polygons=outlines,
                  **part)


def test_windows_and_polygons_are_carried():
    records = [windowed(i) for i in range(5)]
    table = pickle.loads(pickle.dumps(RecordTable.from_records(records)))
    for picked, found in ((range(5), table), ([1, 2, 3], table[1:4]), ([4, 0, 4, 3], table.select([4, 0, 4, 3])),
                          ([], table[:0]), ([2], RecordTable.from_records([table[2]]))):
        assert len(found) == len(picked)
        for i, record in zip(picked, found, strict=True):
            want = records[i]
            assert (record.path, record.window, record.full) == (want.path, want.window, want.full)
            assert record.labels.tolist() == want.labels.tolist() and record.boxes.shape == want.boxes.shape
            assert all(map(np.array_equal, record.polygons, want.polygons)) and len(record.polygons) == i
    joined = RecordTable.join([table[:2], table[2:2], table[2:]])
    for name, column in vars(table).items():
        assert np.array_equal(getattr(joined, name), column)
    plain = RecordTable.from_records([Record("a", 1, 5, 5, np.zeros((1, 4), np.float32), np.zeros(1, np.int64))])
    assert plain.windows is None and plain[0].window is None and plain[:1].polygon_points is None
    assert plain[0].polygons is None
    with pytest.raises(ValueError, match="full size"):
        Record("x", 1, 1, 1, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), window=(0, 0, 1, 1))
