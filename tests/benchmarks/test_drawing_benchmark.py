"""The benchmark of pictures measures what is drawn over, and writes its table and its sheet."""

import cv2
import numpy as np

from benchmarks.drawing import __main__ as drawing
from tests.data import makers


def test_table_and_sheet(tmp_path):
    data = makers.yolo(tmp_path, {"a.png": "0 0.3 0.3 0.1 0.1\n1 0.7 0.5 0.4 0.8\n", "b.png": "0 0.5 0.5 0.2 0.2\n"})
    words = ["--small", "--data", str(data), "--split", "train", "--out", str(tmp_path / "out"), "--sheet",
             str(tmp_path / "sheet.png")]
    drawing.main(drawing.build_parser().parse_args(words))
    page = (tmp_path / "out" / "drawing_cpu.md").read_text()
    assert "| a.png | 100x60 | 2 |" in page and "| b.png | 100x60 | 1 |" in page and "hidden by ours" in page
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] >= drawing.WIDTH


def test_hidden_pixels_are_those_of_small_objects():
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = image.copy()
    drawn[10:15, 10:20] = 255  # half of the first, and some of the large one
    drawn[60:70, 60:70] = 255
    boxes = np.array([[10.0, 10, 20, 20], [40, 40, 100, 100], [0, 80, 10, 90]])
    assert drawing.hidden(image, drawn, boxes) == (50, 200)
    assert drawing.hidden(image, image, boxes) == (0, 200)
