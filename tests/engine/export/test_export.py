"""Every head and neck goes through both exporters with its sizes free."""

import pytest
import torch

from engine.export.config import ExportConfig
from engine.export.export import export
from models import build_model
from utils.config import find_config, read_yaml


def thin(base: str, neck: str) -> torch.nn.Module:
    """A published model at an eighth of its width, its weights as they are drawn."""
    torch.manual_seed(0)
    config = read_yaml(find_config(base, "models")) | {"width_multiple": 0.125}
    return build_model(config, num_classes=3, neck=neck).eval()


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
@pytest.mark.parametrize("base, neck", [("yolov7", "pan"), ("yolov7", "assn"), ("yolov8", "ssfpn"), ("yolov8", "assn")])
def test_sizes_stay_free(tmp_path, base, neck, suffix):
    model = thin(base, neck)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    comparisons = export(model, tmp_path / f"m{suffix}", ExportConfig(imgsz=(64, 96), dynamic=True)).comparisons
    assert [c.shape for c in comparisons] == [(1, 64, 96)] * 2 + [(2, 96, 64)] * 2
    assert all(c.boxes < 0.01 and c.scores < 1e-4 for c in comparisons)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
