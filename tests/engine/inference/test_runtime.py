"""One face for .pt, .onnx and .torchscript: the same answers, and clear words for files that cannot be used."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch

from engine.export.config import ExportConfig
from engine.export.export import export
from engine.inference.runtimes.open import load_runtime
from tests.refusals import refused
from tests.tiny import NAMES, tiny_checkpoint, tiny_model

ROOT = Path(__file__).resolve().parents[3]
SUFFIXES = [".pt", ".onnx", ".torchscript"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """suffix -> a file of the same model; the exported ones are bound to batch 2 of 64x96 pixels."""
    folder = tmp_path_factory.mktemp("runtime")
    for suffix in SUFFIXES[1:]:
        export(tiny_model(), folder / f"best{suffix}", ExportConfig(imgsz=(64, 96), batch_size=2))
    tiny_checkpoint(folder / "best.pt")
    return {suffix: folder / f"best{suffix}" for suffix in SUFFIXES}


@pytest.fixture(scope="module")
def runtimes(files):
    return {suffix: load_runtime(path, "cpu") for suffix, path in files.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_knows_its_model(runtimes, suffix):
    runtime = runtimes[suffix]
    assert runtime.names == NAMES and runtime.strides == [8, 16, 32]
    assert runtime.fixed_size == (None if suffix == ".pt" else (64, 96))


@pytest.mark.parametrize("count", [1, 2, 3])  # the files are bound to batches of 2
@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_same_answers(runtimes, suffix, count):
    images = torch.randint(256, (count, 3, 64, 96), dtype=torch.uint8)
    expected, got = runtimes[".pt"].predict(images), runtimes[suffix].predict(images)
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)
    assert got[0].shape == (count, 64 * 96 // 64 + 64 * 96 // 256 + 64 * 96 // 1024, 4)
    for a, b in zip(runtimes[".pt"].select(*expected), runtimes[suffix].select(*got), strict=True):
        assert len(a) > 0  # of scores that differ by rounding alone, either may come first
        assert sorted(a.labels.tolist()) == sorted(b.labels.tolist())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_uint8_is_float_times_255(runtimes, suffix):
    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    for a, b in zip(runtimes[suffix].predict(images), runtimes[suffix].predict(images / 255), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_half_is_another_precision_of_the_same(files, runtimes):
    half = load_runtime(files[".pt"], "cpu", half=True)
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    (boxes, scores), (exact_boxes, exact_scores) = half.predict(images), runtimes[".pt"].predict(images)
    assert scores.dtype == torch.float32 and not torch.equal(scores, exact_scores)
    assert (scores - exact_scores).abs().max() < 0.1 and (boxes - exact_boxes).abs().mean() < 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_and_truncated_files_are_told(files, tmp_path, suffix):
    with refused("missing-file", f"none{suffix}"):
        load_runtime(tmp_path / f"none{suffix}", "cpu")
    broken = tmp_path / f"broken{suffix}"
    whole = files[suffix].read_bytes()
    for share in (0.5, 0.0):
        broken.write_bytes(whole[:int(len(whole) * share)])
        with refused("corrupt-checkpoint" if suffix == ".pt" else "corrupt-file", f"broken{suffix}"):
            load_runtime(broken, "cpu")


def test_foreign_files_are_told(tmp_path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x * 2

    with refused("unknown-format", r"yolo\.weights", r"\.pt", r"\.onnx"):
        load_runtime(tmp_path / "yolo.weights")
    torch.jit.save(torch.jit.trace(Twice(), torch.ones(1)), tmp_path / "other.torchscript")
    torch.onnx.export(Twice(), (torch.ones(1),), tmp_path / "other.onnx", dynamo=False)
    for name, code in (("other.torchscript", "foreign-file"), ("other.onnx", "unsupported-layout")):
        with refused(code, name, "export.py"):
            load_runtime(tmp_path / name, "cpu", trust=True)


def test_a_program_from_elsewhere_needs_trust(files, tmp_path, monkeypatch):
    images = torch.rand(2, 3, 64, 96)
    copy = tmp_path / "copy.torchscript"
    copy.write_bytes(files[".torchscript"].read_bytes())
    expected = load_runtime(copy, "cpu").predict(images)  # the same bytes, wherever they lie
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("best/extra/more.json", "{}")
    with refused("untrusted-file", r"copy\.torchscript", "--trust"):
        load_runtime(copy, "cpu")
    assert torch.equal(load_runtime(copy, "cpu", trust=True).predict(images)[0], expected[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    with refused("untrusted-file", "best"):
        load_runtime(files[".torchscript"], "cpu")


def with_metadata(source, target, change):
    """A copy of an .onnx file whose metadata, as a dict or as text, was changed."""
    graph = onnx.load(str(source))
    entry = next(prop for prop in graph.metadata_props if prop.key == "assn")
    changed = change(json.loads(entry.value))
    entry.value = changed if isinstance(changed, str) else json.dumps(changed)
    onnx.save(graph, str(target))
    return target


@pytest.mark.parametrize("change, named", [
    (lambda c: "{", "metadata"), (lambda c: "[" * 100_000, "metadata"), (lambda c: [1], "metadata"),
    (lambda c: {**c, "names": "abc"}, "names"), (lambda c: {**c, "names": ["a"] * 60_000}, "names"),
    (lambda c: {**c, "names": [["a"]]}, "names"), (lambda c: {**c, "strides": [0]}, "strides"),
    (lambda c: {**c, "strides": []}, "strides"), (lambda c: {**c, "size": [64]}, "size"),
    (lambda c: {**c, "size": [1e9, -1]}, "size"), (lambda c: {**c, "batch": 0}, "batch"),
    (lambda c: {**c, "half": "no"}, "half"), (lambda c: {**c, "thresholds": {"conf": 2}}, "thresholds"),
    (lambda c: {**c, "thresholds": {**c["thresholds"], "per_class": 0}}, "thresholds"),
    (lambda c: {k: v for k, v in c.items() if k != "names"}, "names")])
def test_metadata_that_lies_is_one_sentence(files, tmp_path, change, named):
    with refused("corrupt-metadata", r"bad\.onnx", named):
        load_runtime(with_metadata(files[".onnx"], tmp_path / "bad.onnx", change), "cpu")


def test_a_selection_that_is_not_known_is_named(files, tmp_path):
    path = with_metadata(files[".onnx"], tmp_path / "other.onnx", lambda c: {**c, "select": "soft"})
    with refused("unknown-selection", r"other\.onnx", "soft"):
        load_runtime(path, "cpu")
    path = with_metadata(files[".onnx"], tmp_path / "later.onnx", lambda c: {**c, "format": "assn-export/2"})
    with refused("unsupported-metadata", r"later\.onnx", "assn-export/2"):
        load_runtime(path, "cpu")


def test_a_file_of_before_has_no_thresholds(files, tmp_path):
    path = with_metadata(files[".onnx"], tmp_path / "old.onnx", lambda c: {k: c[k] for k in c if k != "thresholds"})
    assert load_runtime(path, "cpu").thresholds == load_runtime(files[".pt"], "cpu").thresholds


def test_a_head_with_a_selection_of_its_own_is_not_exported(tmp_path):
    model = tiny_model()
    model.head.selection = lambda boxes, scores, config: []
    assert model.select(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)) == []
    with refused("unknown-selection", "DFLDetect"):
        export(model, tmp_path / "best.onnx", ExportConfig(imgsz=(64, 64)))


def test_metadata_that_is_no_text_is_one_sentence(files, tmp_path):
    broken = tmp_path / "bad.onnx"
    data = files[".onnx"].read_bytes()
    assert data.count(b'"strides"') == 1
    broken.write_bytes(data.replace(b'"strides"', b'"strid\x89\xff"'))
    with refused("corrupt-metadata", r"bad\.onnx"):
        load_runtime(broken, "cpu")


def test_what_metadata_says_beside_the_need_does_no_harm(files, tmp_path):
    path = with_metadata(files[".onnx"], tmp_path / "odd.onnx", lambda c: {
        **c, "names": ["a\x1b[2J", "b", "c"], "trained": {"imgsz": "wide"}, "more": 1})
    runtime = load_runtime(path, "cpu")
    assert runtime.names == ["a\\x1b[2J", "b", "c"] and runtime.trained == {}
    path = with_metadata(files[".onnx"], tmp_path / "less.onnx", lambda c: {**c, "names": ["a", "b"]})
    with refused("bad-output", r"less\.onnx", r"scores \(B, N, 2\)"):
        load_runtime(path, "cpu").predict(torch.zeros(2, 3, 64, 96))


def test_sizes_between_the_strides_are_told(files):
    with refused("bad-size", r"best\.pt", r"\b32\b", "100x96"):
        load_runtime(files[".pt"], "cpu").predict(torch.zeros(1, 3, 100, 96))


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    def full(self, data):
        raise OSError(28, "No space left on device")

    path = tmp_path / f"best{suffix}"
    path.write_text("before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with refused("unwritable-file", path.name, "No space left on device"):
        export(tiny_model(), path, ExportConfig(imgsz=(64, 64)))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_file_says_what_own_code_must_know(files):
    graph = onnx.load(str(files[".onnx"]))
    words = {prop.key: prop.value for prop in graph.metadata_props}
    assert words["stride"] == "32" and ast.literal_eval(words["names"]) == dict(enumerate(NAMES))
    assert "height and width 64 and 96" in graph.doc_string
    assert [o.type.tensor_type.shape.dim[2].dim_value for o in graph.graph.output] == [4, 3]


def test_wrong_use_is_told(files, runtimes, monkeypatch):
    with refused("fixed-size", "64x96.*64x64", "--dynamic"):
        runtimes[".onnx"].predict(torch.zeros(1, 3, 64, 64))
    with refused("wrong-precision", "--half", r"best\.onnx"):
        load_runtime(files[".onnx"], "cpu", half=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with refused("missing-package", "pip install onnxruntime"):
        load_runtime(files[".onnx"], "cpu")


def test_a_model_that_is_opened_has_imported_what_its_first_image_needs():
    """The operator of NMS is loaded, which no stage of the first image should be charged with."""
    code = ("import torch, engine.inference.runtimes.base as runtime, utils.select as select\n"
            "from engine.inference.metadata import ExportMetadata\n"
            "assert not select.nms_operator.cache_info().currsize\n"
            "runtime.Runtime('m', ExportMetadata(('a',), (8,), None, None, False), torch.device('cpu'))\n"
            "assert select.nms_operator.cache_info().currsize")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
