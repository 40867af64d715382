"""Start-up: what the four scripts import at once. Measured by `python -X importtime detect.py --help`."""

import subprocess
import sys

from tests.contracts.test_house import ROOT

# Seconds of CPU time each, and not needed before the first figure, table, export or NMS of a model.
HEAVY = {"torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard", "torchvision", "matplotlib",
         "scipy", "sympy", "pandas", "pycocotools", "hotcoco", "tensorboard", "onnx", "onnxruntime", "openvino",
         "optuna", "numba", "PIL", "av", "trackers", "supervision"}


def test_scripts_import_heavy_packages_late():
    probe = f"import sys, train, val, detect, export; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-B", "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    assert run.stdout.split() == []
