"""Settings of detect.py and export.py: what flags become, and that all mistakes are named at once."""

import detect
from engine.export.config import ExportConfig
from engine.inference.config import DetectConfig
from tests.refusals import refused
from utils.select import SelectConfig


def test_flags_become_thresholds():
    flags = ["--weights", "a.pt", "--source", "b", "--classes", "dog", "0", "--conf-thres", "0.5", "--agnostic-nms"]
    config = DetectConfig.from_args(detect.build_parser().parse_args(flags)).check()
    assert config.thresholds(["cat", "dog", "cow"]) == SelectConfig(0.5, 0.45, 1000, (0, 1), agnostic=True)
    assert DetectConfig().thresholds([]) == SelectConfig(0.25, 0.45, 1000)


def test_a_folder_of_results_is_needed_where_anything_is_saved():
    assert DetectConfig().saves_anything and not DetectConfig(nosave=True).saves_anything
    assert DetectConfig(nosave=True, save_json=True).saves_anything


def test_the_size_of_an_export_is_one_or_two_numbers():
    assert ExportConfig().size == (640, 640)
    assert ExportConfig(imgsz=(96,)).size == (96, 96) and ExportConfig(imgsz=(64, 96)).size == (64, 96)
    with refused("bad-flags", r"best\.onnx", "--opset", "--simplify"):
        ExportConfig(weights="best.onnx", include=("torchscript",), opset=17, simplify=True).check()
