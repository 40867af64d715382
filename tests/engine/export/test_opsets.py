"""Every operator set that `--opset` takes is written and runs; the peer's own program reads the peer's layout."""

import onnx
import pytest

import export as script
from engine.export.config import OPSETS


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(OPSETS[0], OPSETS[1] + 1))
@pytest.mark.parametrize("words", [[], ["--nms", "--dynamic"], ["--simplify", "--half"]], ids=["plain", "nms", "half"])
def test_an_operator_set(made, tmp_path, opset, words):
    path, = script.main(script.build_parser().parse_args(
        ["--weights", str(made("pt")), "--imgsz", "64", "96", "--opset", str(opset), "--output", str(tmp_path / "a"),
         *words]))
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version == opset and graph.ir_version <= 10
