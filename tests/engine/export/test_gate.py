"""The comparison: on real images, with AP; a file that differs replaces nothing, and its worst picture is shown."""

import cv2
import pytest
import torch

import export as script
from engine.export.export import export
from engine.export.formats import onnx
from engine.export.gate import NOISE, PICTURES, Comparison
from engine.export.pictures import built_in, open_pictures
from engine.export.program import Program
from tests.engine.export.conftest import SIZE
from tests.refusals import refused
from tests.tiny import picture


def run(made, *words):
    return script.main(script.build_parser().parse_args(
        ["--weights", str(made("pt")), "--imgsz", *map(str, SIZE), *map(str, words)]))


def test_a_data_set_gives_pictures_and_ap(made, tmp_path, capsys):
    run(made, "--data", made("pt").parent / "tiny.yaml", "--images", 2, "--output", tmp_path / "a.onnx")
    said = capsys.readouterr().out
    assert "  2 pictures 1x3x64x96" in said and "(2 images)" in said and " in PyTorch, " in said


def test_a_folder_gives_pictures_and_what_cannot_be_read_is_told(made, tmp_path, capsys):
    for number in range(3):
        picture(tmp_path / "shots" / "deep" / f"{number}.jpg", number, (50 + number, 90))
    (tmp_path / "shots" / "broken.png").write_bytes(b"no picture")
    run(made, "--data", tmp_path / "shots", "--dynamic", "--output", tmp_path / "a.onnx")
    said = capsys.readouterr()
    assert "3 pictures 1x3x64x96" in said.out and "AP" not in said.out
    assert "--data: 1 images cannot be read and were left out, such as" in said.err and "broken.png" in said.err
    (tmp_path / "empty").mkdir()
    with refused("no-images", "no image in this folder"):
        run(made, "--data", tmp_path / "empty")


def test_the_worst_picture_is_shown_and_nothing_is_replaced(made, tmp_path, monkeypatch):
    target = tmp_path / "a.onnx"
    target.write_bytes(b"the one that works")
    for number in range(2):
        picture(tmp_path / "shots" / f"{number}.jpg", number, SIZE)
    forward, blank = Program.forward, torch.tensor(0.0)

    def shifted(self, images):
        boxes, scores = forward(self, images)
        return boxes + 3 * (images[:, :1].mean((2, 3)) > bright)[..., None], scores + blank

    means = [cv2.imread(str(tmp_path / "shots" / f"{number}.jpg"))[..., 2].mean() / 255 for number in range(2)]
    bright, worst = sum(means) / 2, max(range(2), key=means.__getitem__)
    monkeypatch.setattr(Program, "forward", shifted)
    with refused("export-differs", rf"the worst picture, .*{worst}\.jpg, is drawn in .*a_onnx_worst\.jpg"):
        run(made, "--data", tmp_path / "shots", "--output", target)
    assert target.read_bytes() == b"the one that works"
    drawn = cv2.imread(str(tmp_path / "a_onnx_worst.jpg"))
    assert drawn.shape == (SIZE[0], 2 * SIZE[1], 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a_onnx_worst.jpg", "shots"]


def test_ap_that_falls_is_refused(made, tmp_path, monkeypatch):
    forward = Program.forward
    monkeypatch.setattr(Program, "forward", lambda self, images: [
        x * k for x, k in zip(forward(self, images), (1, 0), strict=True)])
    for kind in ("float32", "int8"):
        loose = dict.fromkeys(("boxes", "scores"), float("inf")) | {"fraction": 1.0, "ap": 0.0}
        monkeypatch.setitem(PICTURES, kind, PICTURES[kind].__class__(**loose))
        monkeypatch.setitem(NOISE, kind, PICTURES[kind])
    with refused("export-differs", "AP falls by more than 0.0: AP 0.* in PyTorch, 0.0000 in the file"):
        run(made, "--data", made("pt").parent / "tiny.yaml", "--output", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_eight_bits_report_ap_before_and_after(made, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino"), pytest.importorskip("nncf")
    untrained = PICTURES["int8"].__class__(float("inf"), 1.0, 1.0, 1.0, iou=0.5)
    monkeypatch.setitem(PICTURES, "int8", untrained)  # its scores are nearly tied
    folder, = run(made, "--include", "openvino", "--int8", "--data", made("pt").parent / "tiny.yaml", "--output",
                  tmp_path / "a")
    said = capsys.readouterr().out
    assert folder.name == "a_int8_openvino_model" and "in PyTorch" in said and "in the file" in said
    network = (folder / "a_int8.xml").read_text()
    assert network.count('type="FakeQuantize"') > 5
    assert (folder / "a_int8.bin").stat().st_size < 0.5 * (made("openvino") / "openvino.bin").stat().st_size


def test_a_folder_with_files_of_the_user_is_not_replaced(made, tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "a_openvino_model").mkdir()
    (tmp_path / "a_openvino_model" / "notes.txt").write_text("mine")
    with refused("unwritable-file", "a_openvino_model", "notes.txt, which would be lost"):
        run(made, "--include", "openvino", "--output", tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a_openvino_model"]
    (tmp_path / "a_openvino_model" / "notes.txt").unlink()
    run(made, "--include", "openvino", "--output", tmp_path / "a")
    run(made, "--include", "openvino", "--output", tmp_path / "a", "--dynamic")  # replaces its own
    assert [p.name for p in tmp_path.iterdir()] == ["a_openvino_model"]


def test_a_graph_that_cannot_be_made_is_one_sentence(made, tmp_path, monkeypatch):
    def fail(*args, **words):
        raise RuntimeError("Unsupported: aten::something.\nand a page more")

    monkeypatch.setattr(onnx.torch.onnx, "export", fail)
    with refused("unsupported-opset", "--opset 17: this model cannot be exported with it: Unsupported: aten"):
        run(made, "--output", tmp_path / "a")


@pytest.mark.parametrize("boxes, scores, differ, beyond", [
    (0.05, 1e-4, 1, False), (0.2, 1e-4, 0, True), (0.0, 0.01, 0, True), (0.0, 0.0, 2, True),
    (float("nan"), 0.0, 0, True), (0.0, float("nan"), 0, True)])
def test_what_is_beyond_the_tolerance(boxes, scores, differ, beyond):
    comparison = Comparison("pictures", (1, 64, 64), boxes, scores, 50, differ)
    assert bool(comparison.excess(PICTURES["float32"])) == beyond


def test_pictures_are_spread_over_the_split(tmp_path):
    for number in range(10):
        picture(tmp_path / f"{number}.jpg", number, (32, 32))
    assert [name[-5] for name in open_pictures(str(tmp_path), 4).names] == ["0", "3", "6", "9"]
    assert len(built_in((64, 64))) == 2 and all(image.shape == (64, 64, 3) for _, image in built_in((64, 64)))


def test_the_set_of_comparisons_is_returned(made, tmp_path):
    from engine.export.config import ExportConfig
    from models import load_model

    done = export(load_model(made("pt")), tmp_path / "a.onnx", ExportConfig(imgsz=SIZE, dynamic=True))
    assert [(c.kind, c.shape) for c in done.comparisons] == [
        ("random", (1, 64, 96)), ("pictures", (1, 64, 96)), ("random", (2, 96, 64)), ("pictures", (2, 96, 64))]
    assert done.accuracy is None and done.mebibytes > 0.1
