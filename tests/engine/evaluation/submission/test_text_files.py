"""The checks of VisDrone's and VOC's results files, and the command that chooses between them."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.evaluation.submission.check import check, kind_of, print_check
from engine.evaluation.submission.visdrone import check_visdrone
from engine.evaluation.submission.voc import check_voc
from tests.refusals import refused
from tests.running import run

ROW = "1,2,10,20,0.5,4,-1,-1\n"
VOC_ROW = "a 0.50000 1.000 1.000 10.500 20.000\n"
SET = "results/VOC2012/Main/comp4_det_test_{}.txt"


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with a.jpg and b.jpg of 100 x 60 pixels."""
    for name in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), np.zeros((60, 100, 3), np.uint8))
    return tmp_path / "images"


def zipped(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_DOT_", "."), content)
    return path


def tarred(path: Path, files: dict[str, str], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            tar.addfile(member, io.BytesIO(content.encode()))
    return path


def test_good_results_of_visdrone_are_clean(tmp_path, images):
    path = zipped(tmp_path / "r.zip", a_DOT_txt=ROW * 500, b_DOT_txt="")
    report = check(path, images)
    assert report.is_clean and "500 detections in 2 files, at most 500 in one" in report.format()
    assert "not checked" in check(path).format()
    folder = tmp_path / "r"
    folder.mkdir()
    for name, text in (("a", ROW), ("b", "")):
        (folder / f"{name}.txt").write_text(text)
    assert check(folder, images).is_clean


@pytest.mark.parametrize(("files", "code"), [
    ({"a_DOT_txt": ROW}, "unseen-image"), ({"a_DOT_txt": ROW, "b_DOT_txt": "", "c_DOT_txt": ROW}, "unknown-image"),
    ({"a_DOT_txt": ROW * 501, "b_DOT_txt": ""}, "too-many"), ({"a_DOT_txt": "", "b_DOT_txt": ""}, "empty"),
    ({"a_DOT_txt": "1,2,10,20,0.5,0,-1,-1", "b_DOT_txt": ROW}, "unknown-category"),
    ({"a_DOT_txt": "1,2,10,20,0.5,11,-1,-1", "b_DOT_txt": ROW}, "unknown-category"),
    ({"a_DOT_txt": "1,2,10,20,1.5,1,-1,-1", "b_DOT_txt": ROW}, "bad-score"),
    ({"a_DOT_txt": "1,2,nan,20,0.5,1,-1,-1", "b_DOT_txt": ROW}, "not-finite"),
    ({"a_DOT_txt": "91,2,9.02,20,0.5,1,-1,-1", "b_DOT_txt": ROW}, "outside-image"),
    ({"a_DOT_txt": "1,2,-1,20,0.5,1,-1,-1", "b_DOT_txt": ROW}, "negative-side"),
    ({"a_DOT_txt": "1,2,3,20,0.5,1", "b_DOT_txt": ROW}, "bad-row"),
    ({"a_DOT_txt": ROW, "b_DOT_txt": "", "readme_DOT_md": "x"}, "bad-member"),
    ({"a_DOT_txt": ROW, "../b_DOT_txt": ""}, "bad-member")])
def test_spoiled_results_of_visdrone_are_refused_by_reason(tmp_path, images, files, code):
    assert check(zipped(tmp_path / "r.zip", **files), images).codes == [code]


def test_a_box_in_the_corner_of_its_image_is_inside(tmp_path, images):
    good = zipped(tmp_path / "r.zip", a_DOT_txt="90,40,10.005,20,0.5,1,-1,-1\n", b_DOT_txt="0,0,0,0,1,10,-1,-1\n")
    assert check(good, images).is_clean


def test_good_results_of_voc_are_clean(tmp_path, images):
    names = [SET.format(name) for name in ("cat", "dog")]
    path = tarred(tmp_path / "results.tar.gz", dict.fromkeys(names, VOC_ROW))
    report = check(path, images)
    assert report.codes == ["missing-class"] and report.problems[0].count == 18  # of VOC's twenty
    renamed = {name.replace("cat", "circle").replace("dog", "square"): VOC_ROW for name in names}
    path = tarred(tmp_path / "results.tar.gz", renamed)
    report = check(path, images)
    assert report.is_clean and "2 detections of 2 classes in 1 images" in report.format()
    assert "1 of 2 images have no detection" in report.format()
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    assert check(tmp_path / "results", images).is_clean and check(tmp_path / "results").is_clean
    (tmp_path / "test.txt").write_text("a\nb\n")
    assert check(path, tmp_path / "test.txt").is_clean
    assert (tmp_path / "results.tar.gz").is_file() and kind_of(path) == "voc"


@pytest.mark.parametrize(("files", "code"), [
    ({SET.format("circle"): VOC_ROW.replace("a", "c")}, "unknown-image"), ({SET.format("circle"): ""}, "empty"),
    ({SET.format("circle"): "a 0.5 0 1 10 20"}, "outside-image"),
    ({SET.format("circle"): "a 0.5 1 1 100.02 9"}, "outside-image"),
    ({SET.format("circle"): "a 0.5 5 1 3 20"}, "negative-side"),
    ({SET.format("circle"): "a inf 5 1 9 20"}, "not-finite"),
    ({SET.format("circle"): "a 0.5 5 1 3"}, "bad-row"), ({"circle.txt": VOC_ROW}, "bad-member"),
    ({"../" + SET.format("circle"): VOC_ROW}, "bad-member"),
    ({SET.format("circle"): VOC_ROW, SET.format("circle").replace("2012", "2007"): VOC_ROW}, "bad-member"),
    ({SET.format("circle"): VOC_ROW, SET.format("square").replace("2012", "2007"): VOC_ROW}, "bad-member")])
def test_spoiled_results_of_voc_are_refused_by_reason(tmp_path, images, files, code):
    assert check(tarred(tmp_path / "results.tar.gz", files), images).codes == [code]


def test_links_and_cut_archives_of_voc_are_refused(tmp_path):
    path = tarred(tmp_path / "results.tar.gz", {SET.format("circle"): ""}, tarfile.SYMTYPE)
    assert check_voc(path).codes == ["bad-member"]
    whole = tarred(path, {SET.format("circle"): VOC_ROW * 9999}).read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert check_voc(path).codes == ["damaged"]
    assert check_voc(tmp_path / "none").codes == check_visdrone(tmp_path / "none").codes == ["missing"]


def test_what_is_no_results_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("")
    with refused("unknown-format", "a.csv"):
        kind_of(tmp_path / "a.csv")
    with refused("missing-file"):
        check(tmp_path / "none.zip")
    with refused("unknown-format"):
        kind_of(tmp_path)
    with refused("no-images"):
        (tmp_path / "empty").mkdir()
        check(zipped(tmp_path / "r.zip", a_DOT_txt=ROW), tmp_path / "empty")


def test_the_command_prints_the_report_and_fails_where_it_should(tmp_path, capsys):
    stem = "detections_test-dev2017_x_results"
    info = {"images": [{"id": 7, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "image_info_test-dev2017.json").write_text(json.dumps(info))
    path = tmp_path / f"{stem}.json"
    path.write_text(json.dumps([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]))
    done = run("-m", "engine.evaluation", "--check", path, tmp_path / "image_info_test-dev2017.json")
    assert done.returncode == 0 and "no problem found" in done.stdout
    path.write_text(path.read_text().replace("0.5", "1.5"))
    with refused("bad-submission", "bad-score"):
        print_check(path, tmp_path / "image_info_test-dev2017.json")
    assert "problem [bad-score]" in capsys.readouterr().out
    done = run("-m", "engine.evaluation", "--check", path, path, path)
    assert done.returncode == 1 and "3 files" in done.stderr
