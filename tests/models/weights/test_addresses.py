"""Where the originals publish their weights: one table, which the documentation and errors repeat."""

import re
from pathlib import Path

import pytest

from engine.inference.runtimes.open import load_runtime
from models import load_model
from models.weights.addresses import PUBLISHED, where_published
from tests.refusals import user_error

DOCS = Path(__file__).resolve().parents[3] / "docs/originals.md"


def test_the_documentation_has_the_table():
    section = DOCS.read_text(encoding="utf-8").split("## Where to get them")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()
            if line.startswith("| ") and "address" not in line and "---" not in line]
    names = [", ".join(f"`{name}`" for name in one.shown.split(", ")) if one.shown else "see its README"
             for one in PUBLISHED]
    assert rows == [[one.title, shown, f"<{one.address}>"] for one, shown in zip(PUBLISHED, names, strict=True)]
    assert all(re.fullmatch(r"https://[\w./-]+", one.address) for one in PUBLISHED)


@pytest.mark.parametrize("published", [one for one in PUBLISHED if one.shown], ids=lambda one: one.title)
def test_every_file_that_is_named_leads_to_its_publisher(published):
    for name in published.shown.split(", "):
        assert where_published(f"weights/{name}") == f"{published.title} publishes weights at {published.page(name)}"


@pytest.mark.parametrize("name, told", [
    ("yolov8n.pt", "github.com/ultralytics/assets/releases"), ("YOLOv8x.pt", "ultralytics/assets"),
    ("yolov5x6.pt", "ultralytics/yolov5"), ("yolov7-e6e_training.pt", "WongKinYiu/yolov7"),
    ("yolov7-assn.pt", "smu-ivpl/ASSN"), ("yolor_p6_ssfpn.pt", "yolor"), ("yolo11n.pt", "later family"),
    ("yolov9-c.pt", "later family"), ("best.pt", "runs/train/exp"), ("yolov8n-mine.pt", "runs/train/exp"),
    ("resnet50-11ad3fa6.pth", "https://download.pytorch.org/models/resnet50-11ad3fa6.pth")])
def test_a_missing_file_is_told_with_its_address(tmp_path, name, told):
    for load in (load_runtime, load_model):
        with user_error("missing-file", "no such file; nothing is downloaded", told):
            load(tmp_path / name)
    (tmp_path / "folder.pt").mkdir()
    with user_error("missing-file", "is not a file"):
        load_model(tmp_path / "folder.pt")
