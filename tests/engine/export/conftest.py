"""Files of one small model in many forms, made once for all tests of exported files."""

from pathlib import Path

import pytest

import export as script
from tests.tiny import ROWS, tiny_data, tiny_model
from utils.checkpoint import save_checkpoint

SIZE = (64, 96)
NAMES = ["circle", "square", "triangle", "star", "cross"]
VARIANTS = {"onnx": ["onnx"], "peer": ["onnx", "--layout", "peer"], "nms": ["onnx", "--nms"],
            "peer-nms": ["onnx", "--nms", "--layout", "peer"], "openvino": ["openvino"], "pt2": ["pt2"],
            "openvino-nms": ["openvino", "--nms", "--agnostic-nms"], "openvino-half": ["openvino", "--half"],
            "torchscript-peer": ["torchscript", "--layout", "peer"]}
SELECTING = [name for name in VARIANTS if "nms" in name]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name) -> the path of a variant of best.pt, which it lies beside, with tiny.yaml; made once."""
    folder = tiny_data(tmp_path_factory.mktemp("variants"), train=2, val=3, size=list(SIZE))
    weights, model = folder / "best.pt", tiny_model(ROWS, NAMES)
    save_checkpoint({"config": model.config, "names": NAMES, "model": model.state_dict()}, weights)
    done = {"pt": weights}

    def make(name: str) -> Path:
        if name not in done:
            if "openvino" in name:
                pytest.importorskip("openvino")
            words = ["--weights", str(weights), "--imgsz", *map(str, SIZE), "--output", name, "--include",
                     *VARIANTS[name]]
            done[name], = script.main(script.build_parser().parse_args(words))
        return done[name]

    return make
