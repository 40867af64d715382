"""What a detector's attention looks at, as numbers and as a picture."""

import cv2
import numpy as np
import pytest
import torch

from data.shapes.generate import Scene, render
from models import build_model
from models.attention_maps import attention_maps
from utils.errors import UserError
from utils.reporting.heat import draw_weights

SIZE, POINT = 300, (75.0, 150.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("assd300-r18", 3)


def scene() -> np.ndarray:
    """A picture (300, 300, 3), BGR."""
    return render(0, "val", 0, (SIZE, SIZE), Scene())[0]


def test_every_level_gives_a_map_that_sums_to_one(model):
    image = torch.from_numpy(scene()[..., ::-1].copy()).permute(2, 0, 1)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = attention_maps(model, image, POINT)
    assert {name: tuple(m.shape) for name, m in found.items()} == {
        "att0": (38, 38), "att1": (19, 19), "att2": (10, 10), "att3": (5, 5), "att4": (3, 3), "att5": (1, 1)}
    for weights in found.values():
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert model.training and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_pixel_that_is_like_one_other_alone_looks_there(model):
    """Channels of the same sign in two cells of the map; queries and keys are the channels themselves."""
    unit = model.model[[node.name for node in model.model.nodes].index("att3")]
    with torch.no_grad():
        for conv in (unit.query, unit.key):
            conv.weight.zero_()[0, 0] = 10.0
    x = torch.zeros(1, unit.out_channels, 5, 5)
    x[0, 0, 1, 2] = x[0, 0, 4, 0] = 1.0
    weights = unit.weights(x, 1, 2)[0]
    assert float(weights[1, 2]) == pytest.approx(0.5) and float(weights[4, 0]) == pytest.approx(0.5)


def test_a_picture_shows_where_it_looks(tmp_path):
    weights = np.zeros((5, 5), np.float32)
    weights[0, 4] = 0.7  # the upper right
    picture = draw_weights(scene(), weights, POINT)
    assert cv2.imwrite(str(tmp_path / "attention.png"), picture)
    again = cv2.imread(str(tmp_path / "attention.png")).astype(int)
    assert again.shape == (SIZE, SIZE, 3)
    red, blue = again[20:40, 260:280].mean((0, 1)), again[270:, :30].mean((0, 1))
    assert red[2] > red[0] + 60 and blue[0] > blue[2] + 30
    assert again[150, 75].tolist() == [255, 255, 255]  # the cross


def test_errors_tell_what_to_do(model):
    image = torch.zeros(3, SIZE, SIZE)
    with pytest.raises(UserError, match="outside the image of 300 x 300"):
        attention_maps(model, image, (300.0, 0.0))
    with pytest.raises(UserError, match="no row is a SelfAttention; take a model such as assd300"):
        attention_maps(build_model("yolov8n", 3), torch.zeros(3, 64, 64), (1.0, 1.0))
