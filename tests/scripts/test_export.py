"""export.py: what it writes is proved, and nothing worse than what was there takes its place."""

import json

import onnx
import pytest
import torch

import export as script
from engine.export.formats.table import FORMATS
from engine.export.program import Program
from engine.inference.runtimes.open import load_runtime
from tests.refusals import refused
from tests.tiny import NAMES, tiny_checkpoint, tiny_model
from utils.checkpoint import save_checkpoint


@pytest.fixture
def weights(tmp_path):
    return tiny_checkpoint(tmp_path / "best.pt")


def run(*words):
    return script.main(script.build_parser().parse_args([str(word) for word in words]))


def test_dynamic_files_take_any_size_and_batch(weights, capsys):
    paths = run("--weights", weights, "--dynamic", "--img", 64, 96, "--batch", 2, "--include", "torchscript", "onnx")
    assert [p.name for p in paths] == ["best.torchscript", "best.onnx"]
    told = capsys.readouterr().out
    assert all(what in told for what in ("random 2x3x64x96", "pictures 2x3x64x96", "random 3x3x96x64"))
    reference = load_runtime(weights, "cpu")
    images = torch.rand(1, 3, 128, 32)
    for path in paths:
        runtime = load_runtime(path, "cpu")
        assert runtime.fixed_size is None
        for a, b in zip(reference.predict(images), runtime.predict(images), strict=True):
            torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)
    assert sorted(p.name for p in weights.parent.iterdir()) == ["best.onnx", "best.pt", "best.torchscript"]


def test_onnx_tells_what_one_must_know(weights):
    graph = onnx.load(run("--weights", weights, "--img", 64, "--opset", 16, "--include", "onnx")[0])
    metadata = json.loads(next(p.value for p in graph.metadata_props if p.key == "assn"))
    assert metadata["names"] == NAMES and metadata["strides"] == [8, 16, 32]
    assert metadata["size"] == [64, 64] and metadata["batch"] == 1
    assert graph.opset_import[0].version == 16
    assert [i.name for i in graph.graph.input] == ["images"]
    assert [o.name for o in graph.graph.output] == ["boxes", "scores"]
    assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)


def test_the_default_size_is_the_one_of_the_training(tmp_path):
    model = tiny_model()
    model.config["trained"] = {"data": "shapes", "imgsz": [128, 96]}  # training, validation
    content = {"config": model.config, "names": list(model.names), "model": model.state_dict()}
    save_checkpoint(content, tmp_path / "small.pt")
    assert load_runtime(run("--weights", tmp_path / "small.pt", "--include", "onnx")[0], "cpu").fixed_size == (96, 96)


def test_half_halves_the_file(weights):
    whole = run("--weights", weights, "--img", 64, "--include", "onnx")[0].stat().st_size
    path = run("--weights", weights, "--img", 64, "--include", "onnx", "--half")[0]
    assert path.stat().st_size < 0.6 * whole
    boxes, scores = load_runtime(path, "cpu", half=True).predict(torch.zeros(1, 3, 64, 64))
    assert boxes.dtype == scores.dtype == torch.float32
    with refused("needs-gpu", "--half", "torchscript"):
        run("--weights", weights, "--include", "torchscript", "--half")


def test_simplify_needs_onnxslim(weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxslim", None)
    with refused("missing-package", "pip install onnxslim"):
        run("--weights", weights, "--img", 64, "--include", "onnx", "--simplify")


def test_simplified_graph_is_smaller_and_the_same(weights):
    pytest.importorskip("onnxslim")
    plain = len(onnx.load(run("--weights", weights, "--img", 64, "--include", "onnx")[0]).graph.node)
    path = run("--weights", weights, "--img", 64, "--include", "onnx", "--simplify")[0]
    assert len(onnx.load(path).graph.node) < plain
    assert load_runtime(path, "cpu").names == NAMES


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_a_failed_check_leaves_the_old_file(weights, monkeypatch, name):
    old = FORMATS[name].path(weights.with_suffix(""))
    old.write_bytes(b"the one that works")

    forward = Program.forward
    monkeypatch.setattr(Program, "forward", lambda self, images: [x + k for x, k in zip(forward(self, images), (1, 0))])
    with refused("export-differs", old.name):
        run("--weights", weights, "--img", 64, "--include", name)
    assert old.read_bytes() == b"the one that works"
    assert sorted(p.name for p in weights.parent.iterdir()) == sorted(
        ["best.pt", old.name, f"best_{name}_worst.jpg"])


def test_wrong_words(weights, capsys):
    for words, told in ((["--fp16"], "use --half"), (["--topk-all", "100"], "--max-det"), (["--end2end"], "use --nms"),
                        (["--grid"], "always decoded"), (["--opset", "11"], "between 12 and 21"),
                        (["--include", "ncnn"], "pnnx reads torchscript and onnx; give it the file of --include onnx"),
                        (["--include", "onxx"], "did you mean 'onnx'"), (["--batch", "0"], "1 or more"),
                        (["--batch", "99999999"], "at most")):
        with pytest.raises(SystemExit) as stop:
            run("--weights", weights, *words)
        assert stop.value.code == 2 and told in capsys.readouterr().err
    with refused("bad-flags", "--opset", "--include onnx"):
        run("--weights", weights, "--include", "torchscript", "--opset", 17)
    with refused("bad-flags", r"best\.onnx", "--simplify"):  # all problems at once
        run("--weights", "best.onnx", "--include", "torchscript", "--simplify")
    with refused("missing-file", r"absent\.pt"):
        run("--weights", "absent.pt")
