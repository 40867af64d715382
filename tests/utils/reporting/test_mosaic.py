"""Pictures side by side keep their shape, and titles stand above them."""

import cv2
import numpy as np
import pytest
import torch

from tests.utils.reporting.test_plots import ODD
from utils.reporting import mosaic
from utils.reporting.layout import Text
from utils.structures import Targets, pack_targets

pytestmark = pytest.mark.filterwarnings("error")


def test_batch_mosaic(tmp_path):
    images = torch.full((5, 3, 32, 64), 100, dtype=torch.uint8)
    targets = [Targets(torch.tensor([[2.0, 20.0, 30.0, 30.0]]), torch.tensor([i % 3]), torch.tensor([i == 0]))
               for i in range(5)]
    mosaic.plot_batch(images, targets, tmp_path / "train_batch0.jpg", ODD)
    picture = cv2.imread(str(tmp_path / "train_batch0.jpg"))
    assert picture.shape == (2 * 34 - 2, 3 * 66 - 2, 3) and picture.std() > 1
    mosaic.plot_batch(images.float() / 255, pack_targets(targets), tmp_path / "again.png", ODD, limit=1)
    alone = cv2.imread(str(tmp_path / "again.png"))
    assert alone.shape == (32, 64, 3) and tuple(alone[25, 1]) == mosaic.CROWD  # grey: an ignore region
    mosaic.plot_batch(torch.zeros(1, 3, 1280, 640, dtype=torch.uint8), [Targets.empty()], tmp_path / "large.png", ODD)
    assert cv2.imread(str(tmp_path / "large.png")).shape == (640, 320, 3)


def test_names_of_files_stand_above(tmp_path):
    images, none = torch.full((2, 3, 64, 128), 100, dtype=torch.uint8), [Targets.empty()] * 2
    mosaic.plot_batch(images, none, tmp_path / "a.png", ODD, ["first.jpg", "second.jpg"])
    picture = cv2.imread(str(tmp_path / "a.png"))
    strip = picture.shape[0] - 64
    assert 10 < strip < 30 and (picture[strip:, :128] == 100).all()
    left, right = picture[:strip, :128], picture[:strip, 130:]
    assert left.max() > 150 and right.max() > 150 and (left != right).any()


def test_long_titles_keep_both_ends():
    text = Text.of((320, 320))
    shown = mosaic.elided("a_name_that_is_too_long_for_a_cell_000123.jpg", text, 120)
    assert shown.startswith("a_n") and shown.endswith("23.jpg") and ".." in shown and text.size(shown)[0] <= 120
    assert mosaic.elided("short", text, 120) == "short" and mosaic.elided("short", text, 1) == ""


def test_cells_of_any_size_keep_their_aspect(tmp_path):
    cells = [np.full((40, 100, 3), 10, np.uint8), np.full((80, 50, 3), 200, np.uint8)]
    mosaic.save_mosaic(cells, 2, tmp_path / "m.png", [((1, 2, 3), "one"), ((4, 5, 6), "another")] * 3)
    picture = cv2.imread(str(tmp_path / "m.png"))
    assert picture.shape[1] == 202 and picture.shape[0] > 80 + 3 * 10  # the legend needs several lines
    assert (picture[:40, :100] == 10).all() and (picture[:80, 102 + 25:102 + 75] == 200).all()
    assert (picture[40:80, :100] == mosaic.BACKGROUND).all()
    assert {(1, 2, 3), (4, 5, 6)} < {tuple(pixel) for pixel in picture[82:].reshape(-1, 3).tolist()}


def test_squares_around_small_objects():
    image = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    low, side = mosaic.surroundings((10, 20, 4, 6), least=20)
    assert (low, side) == ((0, 11), 24)
    assert (mosaic.square(image, low, side, 24) == image[11:35, :24]).all()
    low, side = mosaic.surroundings((78, 0, 2, 2), least=20)
    part = mosaic.square(image, low, side, 20)
    assert (part[9:, :11] == image[:11, 69:]).all() and (part[:9] == 235).all() and (part[:, 11:] == 235).all()
