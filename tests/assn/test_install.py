"""`pip install .` in an environment of its own, and the commands from a folder that is not the repository."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.running import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow
OURS = {"models", "utils", "data", "engine", "cfg", "train.py", "val.py", "detect.py", "export.py"}


def ok(*command: object, folder: Path, environment: dict[str, str] = ENVIRONMENT) -> str:
    """What a command prints; one that fails fails the test."""
    done = subprocess.run([str(word) for word in command], cwd=folder, text=True, env=environment, capture_output=True,
                          timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of an environment's programs. What assn needs is seen through a .pth file: nothing is fetched."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("installed")
    ok(sys.executable, "-m", "venv", "--without-pip", place / "venv", folder=place)
    packages = next((place / "venv").rglob("site-packages"))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    python = next(path for path in (place / "venv").rglob("python*") if path.stem == "python")
    ok(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", "--no-index",
       ROOT, folder=place)
    assert {path.name for path in (packages / "assn").iterdir()} >= OURS
    assert not OURS & {path.name for path in packages.iterdir()}  # nothing of a common name is left there
    assert not (packages / "assn" / "models" / "models").exists() and not list(packages.rglob("tests"))
    return python.parent


def test_the_four_commands_and_python(installed, tmp_path):
    """Data, runs and exported files lie in the folder where the commands run, and none of them in the package."""
    content = {"format": "shapes", "path": "datasets/tiny", "train": 8, "val": 4, "test": 2, "size": 64, "seed": 0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    packages = next(installed.parent.rglob("site-packages"))
    before = {path for path in (packages / "assn").rglob("*") if "__pycache__" not in path.parts}
    outside = {**ENVIRONMENT, "PYTHONPATH": "", "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(tmp_path))}

    def run(command: str, *words: object) -> str:
        return ok(installed / command, *words, folder=tmp_path, environment=outside)

    told = run("assn-train", "--cfg", "yolov8n", "--data", "tiny.yaml", "--epochs", 1, "--imgsz", 64, "--batch", 4,
               "--workers", 1, "--device", "cpu")
    weights = Path("runs/train/exp/weights/best.pt")
    assert f"next: assn-detect --weights {weights}" in told and (tmp_path / weights).is_file()
    assert (tmp_path / "datasets/tiny/train/images").is_dir()
    run("assn-val", "--weights", weights, "--data", "tiny.yaml", "--device", "cpu")
    run("assn-detect", "--weights", weights, "--source", "datasets/tiny/val/images", "--conf-thres", 0.0001, "--device",
        "cpu")
    assert len(list((tmp_path / "runs/detect/exp").glob("*.jpg"))) == 4
    told = run("assn-export", "--weights", weights, "--include", "torchscript", "--device", "cpu")
    assert "assn-detect --weights" in told and (tmp_path / weights).with_suffix(".torchscript").is_file()
    assert "yolov8n" in run("python", "-m", "assn", "models").splitlines()
    assert "usage: python -m assn data" in run("python", "-m", "assn", "data", "--help")
    code = (f"import assn; found = assn.load_model({str(weights)!r}).predict('datasets/tiny/val/images', conf=1e-4); "
            "print(len(found), assn.__file__); import importlib.util as u; print(u.find_spec('models'))")
    count, file, other = run("python", "-c", code).split()
    assert count == "4" and Path(file).is_relative_to(packages) and other == "None"
    assert {path for path in (packages / "assn").rglob("*") if "__pycache__" not in path.parts} == before


def test_a_source_distribution_builds_the_same_wheel(tmp_path):
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    for name, *kind in (("from-sdist",), ("direct", "--wheel")):
        ok(sys.executable, "-m", "build", "--no-isolation", *kind, "--outdir", tmp_path / name, ROOT, folder=tmp_path)
    wheels = [next((tmp_path / name).glob("*.whl")) for name in ("from-sdist", "direct")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
