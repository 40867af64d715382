"""Nodes that are added to a graph: the selection equals `non_max_suppression`, wrong sizes fail with a sentence."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from engine.export.formats.onnx_nodes import add_selection, add_size_check
from utils.select import SelectConfig, best_scores, non_max_suppression

CLASSES = 5


def candidates(batch=2, count=300, seed=0):
    """Crowded boxes, so that NMS has something to do."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * 60
    size = torch.rand(batch, count, 2, generator=generator) * 30 + 2
    return torch.cat((corner, corner + size), 2), torch.rand(batch, count, CLASSES, generator=generator) ** 2


def session(model) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def empty_model(opset, batch="batch"):
    """A graph that gives the boxes and scores that it takes."""
    shapes = {"boxes": [batch, "n", 4], "scores": [batch, "n", CLASSES]}
    inputs = [helper.make_tensor_value_info(f"{n}_in", TensorProto.FLOAT, s) for n, s in shapes.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    nodes = [helper.make_node("Identity", [f"{n}_in"], [n]) for n in shapes]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs),
                             opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize("opset", [12, 13, 17, 21])
@pytest.mark.parametrize("config", [
    SelectConfig(0.25, 0.45, 50), SelectConfig(0.25, 0.45, 50, agnostic=True), SelectConfig(0.0, 0.7, 400),
    SelectConfig(0.999, 0.45, 5)], ids=["classes", "agnostic", "more than there are", "none"])
@pytest.mark.parametrize("suppress", [True, False], ids=["nms", "set"])
def test_the_selection_is_that_of_detect(opset, config, suppress):
    model = empty_model(opset)
    add_selection(model, config, suppress, peer=False)
    boxes, scores = candidates()
    found, count = session(model).run(["detections", "count"], {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()})
    assert found.shape == (2, config.max_det, 6) and count.dtype == np.int64
    for row, n, wanted in zip(torch.from_numpy(found), count, (non_max_suppression if suppress else best_scores)(
            boxes, scores, config), strict=True):
        assert n == len(wanted) and not row[n:].any()
        torch.testing.assert_close(row[:n, :4], wanted.boxes)
        torch.testing.assert_close(row[:n, 4], wanted.scores)
        assert row[:n, 5].tolist() == wanted.labels.tolist()


def test_the_layout_of_the_peer_has_one_output():
    model = empty_model(17, batch=2)
    add_selection(model, SelectConfig(max_det=9), suppress=True, peer=True)
    output, = model.graph.output
    assert output.name == "output0" and [d.dim_value for d in output.type.tensor_type.shape.dim] == [2, 9, 6]


def test_images_between_the_strides_fail_with_a_sentence():
    side = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 3, "h", "w"])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "g", [side], [out]),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    add_size_check(model, 32)
    run = session(model)
    images = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    assert (run.run(None, {"images": images})[0] == images).all()
    for size in ((64, 90), (100, 96), (16, 96), (33, 33)):
        with pytest.raises(Exception, match="images: height and width must be multiples of 32"):
            run.run(None, {"images": np.zeros((1, 3, *size), np.float32)})
