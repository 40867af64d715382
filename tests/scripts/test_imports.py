"""Start-up: what the four scripts import at once. Measured by `python -X importtime detect.py --help`."""

import os
import subprocess
import sys

import pytest

from models import build_model
from tests.contracts.test_house import ROOT
from utils.checkpoint import save_checkpoint

# Seconds of CPU time each, and not needed before the first figure, table, export or NMS of a model.
HEAVY = {"torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard", "torchvision", "matplotlib",
         "scipy", "sympy", "pandas", "pycocotools", "hotcoco", "tensorboard", "onnx", "onnxruntime", "openvino",
         "optuna", "numba", "PIL", "av", "trackers", "supervision"}


def test_scripts_import_heavy_packages_late():
    probe = f"import sys, train, val, detect, export; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-B", "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("name", ["yolov8n-assn", "yolov7-tiny", "retinanet-r18"])
def test_a_checkpoint_is_opened_without_the_compiler(name, tmp_path):
    """torch._dynamo takes 2 s of CPU time; some operators on the meta device import it."""
    model = build_model(name, 3)
    save_checkpoint({"config": model.config, "names": model.names, "model": model.state_dict()}, tmp_path / "best.pt")
    probe = ("import sys; from engine.inference.runtimes.open import load_runtime; load_runtime('best.pt', 'cpu'); "
             "print('torch._dynamo' in sys.modules)")
    run = subprocess.run([sys.executable, "-B", "-c", probe], cwd=tmp_path, text=True, capture_output=True, check=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.stdout.split() == ["False"]
