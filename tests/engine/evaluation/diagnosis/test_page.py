"""The page is whole, valid, self-contained and safe, whatever the names are; files hold what the page shows."""

import base64
import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data.labels.records import Record
from engine.evaluation.diagnosis import diagnose as module
from engine.evaluation.diagnosis.causes import CAUSES
from engine.evaluation.diagnosis.pictures import CROP, missed_crops, worst_images
from engine.evaluation.diagnosis.write import write_diagnosis
from engine.evaluation.metrics.engine import PycocotoolsEngine
from tests.engine.evaluation.diagnosis.cases import SIZE, diagnosed, truth_of

EVIL = '<script>alert("x")</script> & \'quoted\' \x1b[31m'
VOID = {"meta", "img", "br", "hr"}
A, B, NEAR = (40, 40, 60, 60), (100, 90, 109, 100), (50, 40, 70, 60)


class Strict(HTMLParser):
    """Raises where tags do not close in order; gathers tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(path: Path) -> Strict:
    parser = Strict()
    content = path.read_text(encoding="utf-8")
    assert content.startswith("<!DOCTYPE html>")
    parser.feed(content)
    parser.close()
    assert not parser.open
    return parser


@pytest.fixture
def told():
    truth = truth_of([A, B, A], [0, 1, 0], [0, 0, 1], n=3)
    made = diagnosed(truth, [[A, NEAR], [NEAR], []], [[(0.9, 0), (0.5, 0)], [(0.8, 0.3)], []])
    made.names[:] = [EVIL, 'b"><img src=http://example.org/x.png>']
    return made


@pytest.fixture
def index(tmp_path, told):
    records = []
    for k in range(3):
        path = tmp_path / f'<b>&"{k}".png'
        if k < 2:
            picture = np.random.default_rng(k).integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)
            path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        records.append(Record(str(path), k + 1, SIZE, SIZE, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    return SimpleNamespace(records=records)


def test_page_is_valid_and_holds_nothing_foreign(told, index, tmp_path):
    write_diagnosis(told, index, tmp_path / "out", {"weights": EVIL, "data": "x"})
    page = parsed(tmp_path / "out/diagnosis.html")
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags and "link" not in tags and tags.count("h1") == 1 and "svg" in tags
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,"), tag
    assert "http" not in (tmp_path / "out/diagnosis.html").read_text().replace("http://example.org/x.png", "")
    text = " ".join(page.text)
    assert '<script>alert("x")</script>' in text and "\x1b" not in text  # shown as text
    for word in (word for word, row in zip(CAUSES, told.table(told.views[0]), strict=True) if row.any()):
        assert word.advice in text
    assert {dict(a)["content"] for t, a in page.tags if t == "meta" and "content" in a}


def test_pictures(told, index):
    records = {record.image_id: record for record in index.records}
    view = told.views[0]
    worst = worst_images(told, view, records)
    assert [picture.row for picture in worst] == [1, 0]  # a miss and a false alarm each, the second two
    crops = missed_crops(told, view, records)
    assert sorted(p.row for pictures in crops.values() for p in pictures) == np.flatnonzero(view.missed).tolist()
    for picture in (*worst, *(p for pictures in crops.values() for p in pictures)):
        data = base64.b64decode(picture.uri.partition(",")[2])
        shape = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape
        assert shape[:2] in {picture.size[::-1], (2 * CROP, 2 * CROP)}


def test_images_that_are_gone(told, index, tmp_path):
    for record in index.records:
        Path(record.path).unlink(missing_ok=True)
    write_diagnosis(told, index, tmp_path / "out", {"weights": "a.pt"})
    page = parsed(tmp_path / "out/diagnosis.html")
    assert "img" not in [tag for tag, _ in page.tags] and "cannot be decoded" in page.text


def test_files(told, index, tmp_path):
    write_diagnosis(told, index, tmp_path, {"weights": "a.pt"}, pictures=False)
    rows = list(csv.DictReader((tmp_path / "misses.csv").open(encoding="utf-8", newline="")))
    numbers = json.loads((tmp_path / "diagnosis.json").read_text())
    view = told.views[0]
    assert len(rows) == view.missed.sum() == numbers["views"]["best_f1"]["missed"] == 2
    assert [row["cause_best_f1"] for row in rows] == [CAUSES[k].key for k in view.causes[view.missed]]
    assert rows[1]["cause_best_f1"] == "localisation" and float(rows[1]["best_iou"]) == pytest.approx(1 / 3, abs=1e-3)
    assert (float(rows[0]["left"]), float(rows[0]["side"])) == (100, pytest.approx(90 ** 0.5, abs=0.01))
    assert numbers["calibration"]["ece"] >= 0 and set(numbers["tide"]["counts"]) >= {"Cls", "Loc", "Bkg", "Miss"}
    assert "img" not in [tag for tag, _ in parsed(tmp_path / "diagnosis.html").tags]


def test_without_hotcoco(monkeypatch, index, tmp_path):
    monkeypatch.setattr(module, "open_engine", PycocotoolsEngine)
    told = diagnosed(truth_of([A], [0]), [[A]], [[(0.9, 0)]])
    assert told.tide is None and told.calibration is None
    write_diagnosis(told, index, tmp_path, {"weights": "a.pt"})
    text = " ".join(parsed(tmp_path / "diagnosis.html").text)
    assert text.count("hotcoco is not installed") == 2 and "Nothing is missed." in text
