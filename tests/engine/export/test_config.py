"""Settings of export.py: where files go, and which options a format has."""

from pathlib import Path

import pytest

import export as script
from engine.export.config import ExportConfig
from engine.export.formats.table import CONVERTERS, FORMATS, format_of
from tests.refusals import refused


def config(*words: str) -> ExportConfig:
    return ExportConfig.from_args(script.build_parser().parse_args(["--weights", "runs/best.pt", *words])).check()


@pytest.mark.parametrize("words, path", [
    ([], "runs/best.onnx"), (["--include", "openvino"], "runs/best_openvino_model"),
    (["--include", "openvino", "--int8", "--data", "shapes"], "runs/best_int8_openvino_model"),
    (["--output", "fast"], "runs/fast.onnx"), (["--output", "fast.onnx"], "runs/fast.onnx"),
    (["--output", "v1.2"], "runs/v1.2.onnx"), (["--output", "./fast"], "fast.onnx"),
    (["--output", "out/fast.onnx"], "out/fast.onnx"), (["--output", "tests"], "tests/best.onnx"),
    (["--include", "trt"], "runs/best.engine"), (["--include", "pt2", "--output", "x.pt2"], "runs/x.pt2")])
def test_where_a_file_goes(words, path):
    assert [*config(*words).paths().values()] == [Path(path)]


def test_formats_have_names_of_their_own():
    paths = config("--include", "onnx", "openvino", "engine", "torchscript", "pt2", "onnx").paths()
    assert [format_of(path) for path in paths.values()] == [*paths] and len(paths) == 5


REFUSALS = [(option, name) for option in ("half", "int8", "dynamic", "nms", "layout", "opset", "simplify")
            for name, kind in FORMATS.items() if option not in kind.options]


@pytest.mark.parametrize("option, name", REFUSALS)
def test_an_option_that_a_format_has_not_is_refused(option, name):
    value = {"layout": ["peer"], "opset": ["17"]}.get(option, [])
    with refused("bad-flags", f"--{option}: {name} cannot have it", "--include"):
        config("--include", name, f"--{option}", *value)


@pytest.mark.parametrize("words, code, told", [
    (["--conf-thres", "0.1"], "flag-without-effect", "--conf-thres: .*add --nms"),
    (["--max-det", "10", "--agnostic-nms"], "flag-without-effect", "--max-det.*--agnostic-nms"),
    (["--images", "3"], "flag-without-effect", "--images: .*--data"),
    (["--include", "openvino", "--int8"], "flag-without-effect", "--int8: .*--data"),
    (["--include", "openvino", "--int8", "--half", "--data", "a"], "flag-without-effect", "--int8 or --half"),
    (["--output", ""], "bad-flags", "--output: its value is empty"),
    (["--output", "b.torchscript"], "bad-flags", "--output b.torchscript.*--include torchscript"),
    (["--output", "best.pt"], "bad-flags", "--output best.pt: is a name of a checkpoint")])
def test_combinations_without_effect_are_refused(words, code, told):
    with refused(code, told):
        config(*words)


@pytest.mark.parametrize("name", CONVERTERS)
def test_formats_of_others_are_answered_with_the_file_to_convert(name, capsys):
    with pytest.raises(SystemExit):
        config("--include", name)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{name!r} is not written here" in said and "--include" in said


def test_the_selection_of_a_file():
    assert config().selection is None
    own = config("--nms", "--conf-thres", "0.1", "--iou-thres", "0.6", "--max-det", "7", "--agnostic-nms").selection
    assert (own.conf, own.iou, own.max_det, own.agnostic, own.multi_label) == (0.1, 0.6, 7, True, False)
