"""ONNX files of Ultralytics, YOLOv5 and YOLOv7 run where their form is plain; others are refused by what they are."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from engine.inference.runtimes.open import load_runtime
from tests.refusals import refused

SIDE = 160
CELLS = 20 * 20 + 10 * 10 + 5 * 5
NAMES = "{0: 'a', 1: 'b\\x1b[2J', 2: 'c'}"


def write(path, answers, words, side=SIDE, batch=1, channels=3, kind=TensorProto.FLOAT):
    """A file that gives `answers`, by name, whatever it sees; side None leaves height and width free."""
    size = [side or "height", side or "width"]
    given = helper.make_tensor_value_info("images", kind, [batch, channels, *size])
    nodes, outputs, constants = [], [], [helper.make_tensor("zero", kind, [], [0.0])]
    nodes.append(helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for name, value in answers.items():
        constants.append(helper.make_tensor(f"c_{name}", kind, value.shape, value.ravel()))
        nodes.append(helper.make_node("Add", [f"c_{name}", "nothing"], [name]))
        shape = value.shape if side else [None] * value.ndim
        outputs.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(nodes, "g", [given], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in words.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path


def answer(*shape):
    return np.random.RandomState(0).rand(*shape).astype(np.float32)


def run(path, count=1):
    runtime = load_runtime(path, "cpu")
    return runtime, *runtime.predict(torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_form_of_yolov8(tmp_path, capsys, kind):
    given = answer(1, 7, CELLS)
    words = {"names": NAMES, "stride": "32", "task": "detect", "imgsz": "[160, 160]"}
    runtime, boxes, scores = run(write(tmp_path / "v8.onnx", {"output0": given}, words, kind=kind), 2)
    assert runtime.names == ["a", "b\\x1b[2J", "c"] and runtime.strides == [8, 16, 32]
    assert runtime.fixed_size == (160, 160) == runtime.choose_size() and boxes.shape == (2, CELLS, 4)
    x, y, w, h = given[0, :4]
    wanted = torch.from_numpy(np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1))
    torch.testing.assert_close(boxes[1], wanted, atol=2e-3, rtol=0)
    torch.testing.assert_close(scores[0], torch.from_numpy(given[0, 4:].T), atol=1e-3, rtol=0)
    assert "v8.onnx: not of this project; read as YOLOv8 writes it, 3 classes\n" in capsys.readouterr().err


@pytest.mark.parametrize("side", [SIDE, None], ids=["fixed", "free"])
def test_the_form_of_yolov5(tmp_path, side):
    """Free sizes are tried at 256 px, for which the answer here is written."""
    px = side or 256
    count = 3 * sum((px // s) ** 2 for s in (8, 16, 32))
    given = answer(1, count, 8)
    path = write(tmp_path / "v5.onnx", {"output0": given, "raw": answer(1, 3, 5, 5, 8)}, {"names": NAMES}, side)
    runtime = load_runtime(path, "cpu")
    boxes, scores = runtime.predict(torch.zeros(1, 3, px, px))
    assert runtime.fixed_size == (None if side is None else (160, 160))
    torch.testing.assert_close(scores[0], torch.from_numpy(given[0, :, 4:5] * given[0, :, 5:]))
    torch.testing.assert_close((boxes[0, :, 0] + boxes[0, :, 2]) / 2, torch.from_numpy(given[0, :, 0]))


def test_a_file_without_metadata_is_told_and_one_class_is_scored_by_objectness(tmp_path, capsys):
    given = answer(1, 3 * CELLS, 6)
    runtime, _, scores = run(write(tmp_path / "v7.onnx", {"output": given}, {}))
    assert runtime.names == ["class0"] and torch.equal(scores[0], torch.from_numpy(given[0, :, 4:5]))
    assert "1 class, whose names it does not hold" in capsys.readouterr().err


def test_four_levels(tmp_path):
    given = answer(1, 7, 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2)
    path = write(tmp_path / "p6.onnx", {"output0": given}, {"names": "['a', 'b', 'c']", "stride": "64"}, 128)
    assert load_runtime(path, "cpu").strides == [8, 16, 32, 64]


LAYOUT, METADATA = "unsupported-layout", "corrupt-metadata"


@pytest.mark.parametrize("answers, words, code, named", [
    ({"output0": answer(1, 300, 6)}, {}, LAYOUT, "NMS"),
    ({"output": answer(9, 7)}, {}, LAYOUT, "NMS"),
    ({"num_dets": answer(1, 1), "det_boxes": answer(1, 9, 4)}, {}, LAYOUT, "NMS.*num_dets.*det_boxes"),
    ({"output": answer(1, CELLS, 85)}, {}, LAYOUT, "YOLOX"),
    ({"a": answer(1, 3, 20, 20, 8), "b": answer(1, 3, 10, 10, 8)}, {}, LAYOUT, r"a \(1, 3, 20, 20, 8\), b "),
    ({"output0": answer(1, 39, CELLS), "output1": answer(1, 32, 40, 40)}, {"task": "segment"}, LAYOUT, "'segment'"),
    ({"output0": answer(1, 1000)}, {"task": "classify"}, LAYOUT, "'classify'"),
    ({"output0": answer(1, 56, CELLS)}, {"names": "{0: 'person'}"}, LAYOUT, r"52 classes.*\b1;"),
    ({"output0": answer(1, 7, 77)}, {}, LAYOUT, r"\(1, 7, 77\)"),
    ({"output0": answer(1, 7, CELLS)}, {"names": "__import__('os')"}, METADATA, "`names`"),
    ({"output0": answer(1, 7, CELLS)}, {"names": "[" * 5000}, METADATA, "`names`"),
    ({"output0": answer(1, 7, CELLS)}, {"names": "{0: 1, 1: 2, 2: 3}"}, METADATA, "`names`"),
    ({"output0": answer(1, 7, CELLS)}, {"stride": "'x'"}, METADATA, "`stride`"),
    ({"output0": answer(1, 7, CELLS)}, {"stride": "1e400"}, METADATA, "`stride`")])
def test_other_forms_are_refused_by_what_they_are(tmp_path, answers, words, code, named):
    with refused(code, r"a\.onnx: ", named) as error:
        load_runtime(write(tmp_path / "a.onnx", answers, words), "cpu")
    assert len(str(error.value)) < 600


def test_other_inputs_and_raw_scores_are_refused(tmp_path):
    gray = write(tmp_path / "gray.onnx", {"output0": answer(1, 7, CELLS)}, {}, channels=1)
    with refused(LAYOUT, r"gray\.onnx", r"images \(1, 1, 160, 160\)", r"\(B, 3, H, W\)"):
        load_runtime(gray, "cpu")
    raw = write(tmp_path / "raw.onnx", {"output0": answer(1, 7, CELLS) * 9 - 5}, {})
    with refused(LAYOUT, r"raw\.onnx", "-4.99 and 4,"):
        run(raw)
