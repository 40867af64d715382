"""The check of COCO results files: each way to spoil one is refused by its reason, and a good one passes."""

import json
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.metrics.found import Found
from engine.evaluation.submission import json_rows
from engine.evaluation.submission.coco import file_stem, write_coco
from engine.evaluation.submission.coco_check import RECORD, check_coco
from engine.evaluation.submission.image_info import read_image_info
from engine.evaluation.submission.packing import write_zip
from engine.evaluation.submission.report import Refused
from tests.refusals import refused
from utils.class_lists import COCO_IDS

IMAGES = 20_288  # of test-dev2017
STEM = file_stem("test-dev2017", "ours")


def image_info(folder: Path, ids: list[int], **words) -> Path:
    path = folder / "image_info_test-dev2017.json"
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i:012}.jpg", **words} for i in ids]
    categories = [{"id": c, "name": f"class {c}"} for c in COCO_IDS]
    path.write_text(json.dumps({"info": {}, "images": images, "categories": categories}))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SimpleNamespace:
    """A submission of 20,288 made-up images with 1 to 3 detections each, its image-info file and its rows."""
    folder, random = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    ids = sorted(random.choice(581_918, IMAGES, replace=False).tolist())
    images = np.repeat(np.arange(IMAGES), random.integers(1, 4, IMAGES))
    boxes = random.random((len(images), 4)) * [500, 400, 140, 80]
    found = Found(np.ones(IMAGES, bool), images, random.integers(0, 80, len(images)), boxes, random.random(len(images)))
    path = folder / f"{STEM}.json"
    assert write_coco(path, ids, COCO_IDS, found) == path.with_suffix(".zip")
    return SimpleNamespace(folder=folder, path=path, ids=ids, count=len(found), images=len(ids),
                           info=read_image_info(image_info(folder, ids)), rows=json.loads(path.read_text()))


def test_a_submission_of_test_dev_is_clean(whole):
    report = check_coco(whole.path.with_suffix(".zip"), whole.info)
    assert report.is_clean and not report.notes and "no problem found" in report.format()
    assert f"{whole.count:,} detections, at most 3 in an image" in report.format()
    assert "20,288 images of image_info_test-dev2017.json" in report.format()
    assert check_coco(whole.path, whole.info).is_clean
    assert whole.rows[0].keys() == {"image_id", "category_id", "bbox", "score"} and len(whole.rows) == whole.count
    with zipfile.ZipFile(whole.path.with_suffix(".zip")) as archive:
        assert archive.namelist() == [f"{STEM}.json"] and archive.read(f"{STEM}.json") == whole.path.read_bytes()


def test_equal_results_give_equal_archives(whole, tmp_path):
    copy = tmp_path / whole.path.name
    copy.write_bytes(whole.path.read_bytes())
    write_zip(copy.with_suffix(".zip"), [copy])
    assert copy.with_suffix(".zip").read_bytes() == whole.path.with_suffix(".zip").read_bytes()


def spoil_rows(rows: list[dict], code: str) -> list[dict]:
    rows = [dict(row) for row in rows]
    if code == "unknown-image":
        rows[4711]["image_id"] = 999_999_999
    elif code == "unknown-category":
        rows[4711]["category_id"] = 12
    elif code == "too-many":
        rows += [dict(rows[4711]) for _ in range(100)]
    elif code == "not-finite":
        rows[4711]["bbox"] = [1.0, 2.0, float("nan"), 4.0]
    elif code == "outside-image":
        rows[4711]["bbox"] = [630.0, 2.0, 10.02, 4.0]
    elif code == "unseen-image":
        gone = rows[4711]["image_id"]
        rows = [row for row in rows if row["image_id"] != gone]
    return rows


@pytest.mark.parametrize(("code", "said"), [
    ("unknown-image", "row 4,712"), ("unknown-category", "category_id 12"), ("too-many", "best 100"),
    ("not-finite", "nan"), ("outside-image", "640 x 480"), ("unseen-image", "has no row")])
def test_spoiled_rows_are_refused_by_reason(whole, tmp_path, code, said):
    path = tmp_path / f"{STEM}.json"
    path.write_text(json.dumps(spoil_rows(whole.rows, code)))
    report = check_coco(path, whole.info)
    assert report.codes == [code] and said in report.problems[0].text and report.problems[0].count == 1
    assert f"[{code}]" in report.format() and "do not upload" in report.format()


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize(("code", "said", "spoil"), [
    ("empty", "is empty", lambda folder, whole: (folder / f"{STEM}.json").write_bytes(b"")),
    ("empty", "no detection at all", lambda folder, whole: (folder / f"{STEM}.json").write_bytes(b"[]\n")),
    ("too-large", "most", lambda folder, whole: large(folder / f"{STEM}.json", (IMAGES * 100 + 1) * 512 + 1)),
    ("bad-member", "alone", lambda folder, whole: zipped(folder / f"{STEM}.zip", ("results.json", b"[]"))),
    ("bad-member", "alone", lambda folder, whole: zipped(
        folder / f"{STEM}.zip", (f"{STEM}.json", whole.path.read_bytes()), ("readme.txt", b"hello"))),
    ("bad-member", "in no folder", lambda folder, whole: zipped(folder / f"{STEM}.zip", (f"../{STEM}.json", b"[]"))),
    ("bad-member", "a link", lambda folder, whole: zipped(folder / f"{STEM}.zip", (link(f"{STEM}.json"), b"/etc/x"))),
    ("bad-file-name", "rename it", lambda folder, whole: (folder / "predictions.json").write_bytes(
        whole.path.read_bytes())),
    ("bad-file-name", "val2017", lambda folder, whole: (folder / "detections_val2017_ours_results.json").write_bytes(
        whole.path.read_bytes())),
    ("damaged", "no whole zip file", lambda folder, whole: (folder / f"{STEM}.zip").write_bytes(
        whole.path.with_suffix(".zip").read_bytes()[:-1000])),
    ("damaged", "read to its end", lambda folder, whole: (folder / f"{STEM}.zip").write_bytes(
        flipped(whole.path.with_suffix(".zip").read_bytes()))),
    ("not-json", "ends in the middle", lambda folder, whole: (folder / f"{STEM}.json").write_bytes(
        whole.path.read_bytes()[:-20])),
    ("missing", "no such file", lambda folder, whole: None)])
def test_spoiled_files_are_refused_by_reason(whole, tmp_path, code, said, spoil):
    spoil(tmp_path, whole)
    path = next(tmp_path.iterdir(), tmp_path / f"{STEM}.json")
    report = check_coco(path, whole.info)
    assert report.codes == [code] and said in report.problems[0].text
    assert [p.name for p in tmp_path.rglob("*")] == [path.name] * path.exists()  # nothing was unpacked


def large(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)  # sparse


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1:]


def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path):
    info = read_image_info(image_info(tmp_path, [1, 2]))  # detections of two images take 103 kB at most
    bomb = zipped(tmp_path / f"{STEM}.zip", (f"{STEM}.json", b"[" + b" " * (1 << 26) + b"]"))
    assert bomb.stat().st_size < 100_000
    tracemalloc.start()
    report = check_coco(bomb, info)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.codes == ["too-large"] and peak < 1 << 24
    content = bytearray(bomb.read_bytes())
    for at in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
        content[at:at + 4] = (1000).to_bytes(4, "little")  # an archive that lies about the size
    bomb.write_bytes(content)
    assert not check_coco(bomb, info).is_clean


def test_a_list_of_members_without_end_is_not_read(tmp_path):
    content = bytearray(zipped(tmp_path / f"{STEM}.zip", (f"{STEM}.json", b"[]")).read_bytes())
    at = content.rindex(b"PK\x05\x06")
    content[at + 12:at + 16] = (1 << 30).to_bytes(4, "little")
    (tmp_path / f"{STEM}.zip").write_bytes(content)
    assert check_coco(tmp_path / f"{STEM}.zip").codes == ["bad-member"]


def checked(folder: Path, *rows, ids=(1, 2), **words):
    info = read_image_info(image_info(folder, list(ids), **words))
    path = folder / f"{STEM}.json"
    path.write_text(json.dumps(list(rows)))
    return check_coco(path, info)


def row(image=1, category=1, bbox=(0, 0, 5, 5), score=0.5) -> dict:
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "score": score}


@pytest.mark.parametrize(("bad", "code"), [
    (row(bbox=(0, 0, -5, 5)), "negative-side"), (row(bbox=(-0.02, 0, 5, 5)), "outside-image"),
    (row(bbox=(0, 470, 5, 10.02)), "outside-image"), (row(score=1.001), "bad-score"), (row(score=-1e-9), "bad-score"),
    (row(score=float("inf")), "not-finite"), (row(bbox=(0, 0, 10 ** 400, 5)), "not-finite"),
    (row(image="1"), "bad-row"), (row(image=1.0), "bad-row"), (row(image=True), "bad-row"),
    (row(bbox=(0, 0, 5)), "bad-row"), (row(bbox=("0", "0", "5", "5")), "bad-row"), (row(score=None), "bad-row"),
    ([1, 2], "bad-row"), (7, "bad-row"),
    ({"image_id": 1}, "bad-row"), (row(category=0), "unknown-category"), (row(category=91), "unknown-category"),
    (row(image=10 ** 30), "unknown-image")])
def test_each_fault_of_a_row_has_its_code(tmp_path, bad, code):
    report = checked(tmp_path, row(), bad, row(2), bad)
    assert report.codes == [code] and report.problems[0].count == 2 and "row 2" in report.problems[0].text


@pytest.mark.parametrize("good", [
    row(bbox=(0, 0, 640.009, 480)), row(bbox=(-0.009, 0, 5, 5)), row(bbox=(640, 480, 0, 0)), row(score=0), row(score=1),
    {**row(), "extra": "},{"}, {**row(), "m": {"a": [{}]}}])
def test_what_the_server_takes_is_clean(tmp_path, good):
    assert checked(tmp_path, good, row(2), good).is_clean


def test_labels_of_a_model_are_recognised(tmp_path):
    report = checked(tmp_path, *(row(1 + k % 2, k) for k in range(80)))
    assert report.codes == ["unknown-category"] and "0 to 79, which look like labels" in report.problems[0].text
    assert report.problems[0].count == 10  # 0 and the nine gaps below 80


def test_a_hundred_in_an_image_are_not_too_many(tmp_path):
    assert checked(tmp_path, *[row()] * 100, row(2)).is_clean
    assert checked(tmp_path, *[row()] * 101, row(2)).codes == ["too-many"]


def test_images_that_were_looked_at_in_vain_count_as_seen(tmp_path):
    assert checked(tmp_path, row()).codes == ["unseen-image"]
    path, info = tmp_path / f"{STEM}.json", read_image_info(tmp_path / "image_info_test-dev2017.json")
    assert check_coco(path, info, seen=[2]).is_clean
    import hashlib

    record = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "images_without_detections": [2]}
    (tmp_path / RECORD).write_text(json.dumps(record))
    report = check_coco(path, info)
    assert report.is_clean and "looked at" in report.format()
    for other in ({**record, "sha256": "0"}, [], {"sha256": record["sha256"]}, "x"):
        (tmp_path / RECORD).write_text(json.dumps(other))
        assert check_coco(path, info).codes == ["unseen-image"]


def test_without_an_image_info_file_the_report_says_what_was_not_checked(tmp_path):
    checked(tmp_path, row(77), row(78, 90))
    report = check_coco(tmp_path / f"{STEM}.json")
    assert report.is_clean and "not checked" in report.format()
    checked(tmp_path, *[row(77, 26)] * 101)
    assert check_coco(tmp_path / f"{STEM}.json").codes == ["unknown-category", "too-many"]


def test_sizes_that_are_not_stated_are_told(tmp_path):
    report = checked(tmp_path, row(bbox=(0, 0, 5000, 5)), row(2), width=None)
    assert report.is_clean and "does not state the size of 2 images" in report.format()
    assert "has 2 images, and COCO's test-dev2017 has 20,288" in report.format()


@pytest.mark.parametrize(("content", "code"), [
    ({"images": []}, "no-images"), ({"images": [{"file_name": "a"}]}, "bad-value"), ([], "invalid-json"),
    ({"images": [{"id": 1}, {"id": 1}]}, "repeated-id"), ({"images": [{"id": "1"}]}, "bad-value")])
def test_an_image_info_file_that_is_none_is_refused(tmp_path, content, code):
    (tmp_path / "info.json").write_text(json.dumps(content))
    with refused(code, "info.json"):
        read_image_info(tmp_path / "info.json")
    with refused("unreadable-file"):
        read_image_info(tmp_path / "none.json")


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("},{[] \"a\n"),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("},{\"b"), inner, max_size=3))


class Pieces:
    """A stream that gives its content in pieces."""

    def __init__(self, content: bytes, size: int) -> None:
        self.parts = [content[a:b] for a, b in pairwise([*range(0, len(content), size), len(content)])]

    def read(self, count: int = -1) -> bytes:
        return self.parts.pop(0) if self.parts else b""


@settings(deadline=None, max_examples=200)
@given(st.lists(values, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.text(" \n\t", max_size=3))
def test_blocks_hold_the_elements_of_the_list(elements, size, indent, space):
    text = space + json.dumps(elements, indent=indent, ensure_ascii=False) + space
    blocks = list(json_rows.row_blocks(Pieces(text.encode(), size)))
    assert [e for block in blocks for e in block] == elements


@settings(deadline=None, max_examples=200)
@given(st.lists(values, max_size=3), st.integers(1, 40), st.data())
def test_what_json_does_not_read_is_refused(elements, size, data):
    text = json.dumps(elements)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.text("[]{},:\"1 ", max_size=2)) + text[at + data.draw(st.integers(0, 2)):]
    try:
        wanted = json.loads(text)
    except ValueError:
        wanted = None
    if isinstance(wanted, list):
        assert [e for block in json_rows.row_blocks(Pieces(text.encode(), size)) for e in block] == wanted
    else:
        with pytest.raises(Refused) as refusal:
            list(json_rows.row_blocks(Pieces(text.encode(), size)))
        assert refusal.value.code == "not-json"


@pytest.mark.parametrize("content", [
    b"[" * 100_000, b'[{"a":' * 50_000, b"\xff\xfe", b"", b"{}", b"[1,]", b"[1 2]", b"[1]]",
    b"[" + b"9" * 10_000 + b"]", b'["' + b"a" * (1 << 23)])
def test_hostile_json_is_refused(content):
    with pytest.raises(Refused):
        list(json_rows.row_blocks(Pieces(content, 1 << 20)))
