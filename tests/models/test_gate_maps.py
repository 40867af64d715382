"""What a scale-sequence neck attends to, read from a running model, is what its formulas say."""

import pytest
import torch
import yaml

from models import build_model
from models.gate_maps import gate_maps
from models.necks.assn import ASSN
from models.necks.resample import enlarge
from tests.models.classic import yolov8_assn
from tests.tiny import ROWS
from utils.errors import UserError

IMAGE = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tiny(neck: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model({**ROWS, "neck": neck}, 3)


@pytest.mark.parametrize("neck, names", [
    ("assn", ["gate", "P3", "P4", "P5"]), ({"type": "assn", "levels": [0, 1], "gate": "spatial"}, ["gate", "P3", "P4"]),
    ("ssfpn", ["P3", "P4", "P5"])])
def test_maps_lie_at_the_finest_level_and_shares_sum_to_one(neck, names):
    model = tiny(neck).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = gate_maps(model, IMAGE)
    assert sorted(found) == sorted(names) and {tuple(values.shape) for values in found.values()} == {(8, 12)}
    shares = torch.stack([values for name, values in found.items() if name != "gate"])
    assert torch.allclose(shares.sum(0), torch.ones(8, 12), atol=1e-5) and float(shares.min()) >= 0
    assert model.training and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    fused = gate_maps(model.eval().fuse(), IMAGE)
    assert sorted(fused) == sorted(names)


def test_shares_of_levels_are_those_of_the_written_formula():
    """The 1x1 units over the concatenated, enlarged and masked levels, as the paper's figure has them."""
    neck = ASSN([8, 16, 32], strides=[8, 16, 32]).eval()
    pyramid = [torch.randn(2, c, 8 // f, 12 // f) for c, f in ((8, 1), (16, 2), (32, 4))]
    with torch.no_grad():
        mask, entering = neck.gate(pyramid[0])
        levels = [entering, *(enlarge(unit(x), f) for unit, x, f in zip(neck.reduce, pyramid[1:], (2, 4), strict=True))]
        for k, part in enumerate(neck.contributions(pyramid)):
            alone = torch.cat([x * mask if j == k else torch.zeros_like(x) for j, x in enumerate(levels)], 1)
            written = torch.cat([unit.conv(alone) for unit in (neck.elan.cv1, neck.elan.cv2)], 1)
            assert torch.allclose(part, written.norm(dim=1), atol=1e-5)


def test_a_model_file_of_the_forks_has_its_gate():
    model = build_model(yaml.safe_load(yolov8_assn()), 3)
    found = gate_maps(model, IMAGE)
    assert list(found) == ["gate"] and found["gate"].shape == (8, 12)
    assert 0 < float(found["gate"].min()) <= float(found["gate"].max()) < 1


def test_models_without_a_neck_are_refused():
    with pytest.raises(UserError, match="has no scale-sequence neck; take a model such as yolov8n-assn"):
        gate_maps(build_model(ROWS, 3), IMAGE)
