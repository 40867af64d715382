"""One face for .pt, .onnx and .torchscript: the same answers, and clear words for files that cannot be used."""

import sys

import pytest
import torch

from models.export import ExportOptions, export
from models.runtime import load_runtime
from tests.tiny import NAMES, tiny_checkpoint, tiny_model
from utils.errors import UserError

SUFFIXES = [".pt", ".onnx", ".torchscript"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """suffix -> a file of the same model; the exported ones are bound to batch 2 of 64x96 pixels."""
    folder = tmp_path_factory.mktemp("runtime")
    pictures = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    for suffix in SUFFIXES[1:]:
        export(tiny_model(), folder / f"best{suffix}", ExportOptions((64, 96), batch=2), pictures)
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
        assert len(a) > 0 and a.labels.tolist() == b.labels.tolist()


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
    with pytest.raises(UserError, match="no such file"):
        load_runtime(tmp_path / f"none{suffix}", "cpu")
    broken = tmp_path / f"broken{suffix}"
    whole = files[suffix].read_bytes()
    for share in (0.5, 0.0):
        broken.write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(UserError, match="truncated"):
            load_runtime(broken, "cpu")


def test_foreign_files_are_told(tmp_path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x * 2

    with pytest.raises(UserError, match=r"\.weights.*known: \.pt"):
        load_runtime(tmp_path / "yolo.weights")
    torch.jit.save(torch.jit.trace(Twice(), torch.ones(1)), tmp_path / "other.torchscript")
    torch.onnx.export(Twice(), (torch.ones(1),), tmp_path / "other.onnx", dynamo=False)
    for name in ("other.torchscript", "other.onnx"):
        with pytest.raises(UserError, match="not written by this project"):
            load_runtime(tmp_path / name, "cpu")


def test_wrong_use_is_told(files, runtimes, monkeypatch):
    with pytest.raises(UserError, match="exported for 64x96.*got 64x64"):
        runtimes[".onnx"].predict(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="exported in fp32"):
        load_runtime(files[".onnx"], "cpu", half=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_runtime(files[".onnx"], "cpu")
