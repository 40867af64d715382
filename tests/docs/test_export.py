"""The example of docs/export.md runs as written, with its three packages alone, and finds what detect.py finds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import detect
import export
from engine.export.config import ExportConfig
from engine.export.formats.table import FORMATS
from engine.export.gate import PICTURES
from tests.engine.export.conftest import NAMES
from tests.tiny import ROWS, picture, tiny_model
from utils.checkpoint import save_checkpoint

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
# Whatever else the example imported would fail.
ALONE = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'PIL', 'utils', 'engine', 'data']))\n"


def test_the_example_finds_what_detect_finds(tmp_path):
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    (tmp_path / "detect_onnx.py").write_text(ALONE + code, encoding="utf-8")
    model = tiny_model(ROWS, NAMES)
    save_checkpoint({"config": model.config, "names": NAMES, "model": model.state_dict()}, tmp_path / "best.pt")
    weights, = export.main(export.build_parser().parse_args(["--weights", str(tmp_path / "best.pt"), "--imgsz", "128"]))
    for size in ((200, 333), (77, 50)):  # shrunk, enlarged, with odd padding
        shot = picture(tmp_path / "shot.png", 3, size)
        run = subprocess.run([sys.executable, "detect_onnx.py", str(weights), str(shot)], cwd=tmp_path, text=True,
                             capture_output=True)
        assert run.returncode == 0, run.stderr
        found = sorted(line.rsplit(maxsplit=5) for line in run.stdout.splitlines())
        words = ["--weights", str(weights), "--source", str(shot), "--nosave", "--save-json", "--project",
                 str(tmp_path), "--name", "run", "--exist-ok", "--device", "cpu"]
        detect.main(detect.build_parser().parse_args(words))
        rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
        assert len(found) == len(rows) > 3
        for row in rows:
            x, y, w, h = row["bbox"]
            assert any(name == row["category"] and abs(float(score) - row["score"]) < 2e-3 and max(
                abs(float(a) - b) for a, b in zip(box, (x, y, x + w, y + h), strict=True)) < 0.2
                for name, score, *box in found), row


def test_every_format_and_flag_is_on_the_page():
    options = {"--" + name.replace("_", "-") for kind in FORMATS.values() for name in kind.options}
    assert not [flag for flag in options if f"`{flag}" not in TEXT]
    head = next(line for line in TEXT.splitlines() if line.startswith("| | onnx |"))
    assert [cell.strip() for cell in head.strip("|").split("|")][1:] == [*FORMATS]
    inside = ExportConfig()
    assert f"`--conf-thres` {inside.conf_thres}, `--iou-thres` {inside.iou_thres}, `--max-det` {inside.max_det}" in TEXT
    assert f"`--images` {inside.images}" in TEXT


@pytest.mark.parametrize("precision, row", [("float32", "fp32"), ("float16", "`--half`"), ("int8", "`--int8`")])
def test_the_tolerances_are_on_the_page(precision, row):
    cells = next(line for line in TEXT.splitlines() if line.startswith(f"| {row} | ") and "%" in line)
    tolerance = PICTURES[precision]
    assert f"{tolerance.fraction:.0%}".replace("%", " %") in cells and cells.rstrip("| ").endswith(f"{tolerance.ap}")
