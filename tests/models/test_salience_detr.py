"""Salience DETR: what must hold whatever the weights are."""

import pytest
import torch

from models import build_model
from models.losses.detr import Answers, as_fractions, set_terms
from models.losses.salience import level_targets, salience_sums
from models.transformer.deformable import DeformableAttention, sample_levels
from models.transformer.encoder import BackgroundEmbedding
from models.transformer.position import Layout, proposals
from tests.refusals import refused
from utils.structures import Targets, pack_targets

HEAD = {"queries": 20, "layer_ratios": [1.0, 0.6], "decoder_layers": 2, "hidden": 64, "heads": 4}


def tiny(**options):
    """Four maps of 32 channels from a backbone of four convolutions."""
    rows = [[-1, 1, "Conv", [16, 3, 8]], *([-1, 1, "Conv", [16, 3, 2]] for _ in range(3))]
    maps = [[k, 1, "GroupConv", [32, 1, 1, 8]] for k in range(4)]
    return build_model({"source": "tiny.yaml", "nc": 3, "backbone": rows,
                        "head": [*maps, [[4, 5, 6, 7], 1, "SalienceDETR", [3], "detect", {**HEAD, **options}]]})


def targets(*counts, ignore=False):
    rows = []
    for image, count in enumerate(counts):
        corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(image)) * 80
        boxes = torch.cat((corner, corner + 5 + corner / 4), 1)
        rows.append(Targets(boxes, torch.arange(count) % 3, torch.full((count,), ignore)))
    return rows


def train_loss(model, truth, size=(128, 128), content=None):
    raw = model(torch.rand(len(truth), 3, *size, generator=torch.Generator().manual_seed(9)), content, truth)
    return model.loss(raw, truth)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 7), (300, 2)])
def test_any_number_of_objects_trains(counts) -> None:
    model = tiny().train()
    losses = train_loss(model, targets(*counts))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    found = {name: float(value.detach()) for name, value in losses.items()}
    assert (found["dn_cls"] > 0) == bool(sum(counts)) and min(found.values()) >= 0


def test_small_images_work() -> None:
    model = tiny().eval()
    boxes, scores = model.decode(model(torch.rand(1, 3, 64, 128)))
    assert boxes.shape[1] == scores.shape[1] > 0 and torch.isfinite(boxes).all()


def test_denoising_does_not_change_the_other_answers() -> None:
    model, images = tiny().eval(), torch.rand(2, 3, 128, 128)
    plain, noised = model(images).maps, model(images, None, targets(2, 5)).maps
    for name in ("cls", "box"):
        for a, b in zip(plain[name], noised[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert noised["dn_cls"][0].shape[1] == 2 * 5 * (100 // 5)


def test_what_lies_in_padding_does_not_matter() -> None:
    model, images = tiny().eval(), torch.rand(1, 3, 128, 192)
    content = torch.tensor([[96, 128]])
    other = images.clone()
    other[:, :, 96:], other[:, :, :, 128:] = 0.7, 0.2
    a, b = (model(x, content).maps for x in (images, other))
    assert torch.equal(a["box"][-1], b["box"][-1])


def test_no_box_of_a_padded_image_starts_in_padding() -> None:
    pyramid = [torch.zeros(1, 8, 16, 24), torch.zeros(1, 8, 8, 12)]
    layout = Layout.of(pyramid, (128, 192), torch.tensor([[96, 128]]))
    boxes, valid = proposals(layout)
    assert layout.padding.sum() == 16 * 24 - 12 * 16 + 8 * 12 - 6 * 8
    assert not (valid & layout.padding).any() and torch.isinf(boxes[~valid]).all()
    whole = Layout.of(pyramid, (128, 192), None)
    assert whole.padding is None and torch.equal(whole.ratios(), torch.ones(1, 2, 2))


def test_crowd_regions_teach_nothing() -> None:
    """A confident answer inside a crowd region costs nothing; the same one elsewhere does."""
    crowd = pack_targets([Targets(torch.tensor([[0.0, 0, 64, 64]]), torch.zeros(1).long(), torch.ones(1).bool())])
    content, boxes = torch.tensor([[128, 128]]), torch.tensor([[[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]]])
    answers = Answers(torch.full((1, 1, 2, 3), 2.0, requires_grad=True), boxes, torch.full((1, 1, 1), -1))
    terms = set_terms(answers, crowd, as_fractions(crowd, content), content)
    grad, = torch.autograd.grad(terms["cls"].sum(), answers.logits)
    assert (grad[0, 0, 0] == 0).all() and (grad[0, 0, 1] > 0).all() and float(terms["l1"].detach()) == 0
    logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
    total, cells = salience_sums([logits], crowd, (128, 128))
    grad, = torch.autograd.grad(total, logits)
    assert cells == 0 and (grad[0, 0, :8, :8] == 0).all() and (grad[0, 0, 8:] > 0).all()


def test_the_object_whose_centre_is_nearest_gives_the_salience() -> None:
    truth = pack_targets([Targets(torch.tensor([[0.0, 0, 80, 80], [8, 8, 24, 24]]), torch.zeros(2).long())])
    found = level_targets(truth, (16, 16), (128, 128), (-1.0, 64.0))
    conf, area = found.conf.view(16, 16), found.area.view(16, 16)
    assert conf[1, 1] == pytest.approx(1 - 0.5 / 2**0.5) and area[1, 1] == 256  # at (12, 12), half way in the small one
    assert conf[4, 4] == pytest.approx(1 - 0.1 / 2**0.5) and area[4, 4] == 6400
    assert conf[0, 0] == 0 and conf[12, 12] == 0  # (4, 4) is 76 px from a side of its object; (100, 100) is in none


def test_sampling_equals_its_definition() -> None:
    torch.manual_seed(0)
    sizes, (batch, count, heads, points, depth) = [(5, 7), (3, 4)], (2, 3, 2, 2, 4)
    value = torch.randn(batch, 5 * 7 + 3 * 4, heads, depth, dtype=torch.float64)
    places = torch.rand(batch, count, heads, 2, points, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(batch, count, heads, 2, points, dtype=torch.float64)
    expected, start = torch.zeros(batch, count, heads, depth, dtype=torch.float64), 0
    for level, (height, width) in enumerate(sizes):
        plane = value[:, start:start + height * width].unflatten(1, (height, width))
        start += height * width
        for b, q, h, p in torch.cartesian_prod(*(torch.arange(n) for n in (batch, count, heads, points))).tolist():
            x, y = (places[b, q, h, level, p] * torch.tensor([width, height]) - 0.5).tolist()
            for row in (int(y // 1), int(y // 1) + 1):
                for column in (int(x // 1), int(x // 1) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, h, level, p]
                        expected[b, q, h] += share * plane[b, row, column, h]
    torch.testing.assert_close(sample_levels(value, sizes, places, weights), expected.flatten(2))


def test_attention_starts_looking_around() -> None:
    layer = DeformableAttention(32, 4, 2, 3)
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    assert torch.allclose(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0]]), atol=1e-6)
    assert torch.allclose(offsets[1, 1], torch.tensor([[0.0, 1], [0, 2], [0, 3]]), atol=1e-6)


def test_maps_of_more_cells_than_the_tables_have() -> None:
    table = BackgroundEmbedding(8, cells=6)
    exact, wide = table([(4, 6)]), table([(4, 9)])
    assert exact.shape == (24, 8) and wide.shape == (36, 8)
    torch.testing.assert_close(wide.view(4, 9, 8)[:, [0, 8]], exact.view(4, 6, 8)[:, [0, 5]])


@pytest.mark.parametrize(("options", "code", "told"), [
    ({"level_ratios": [0.5, 1]}, "wrong-count", "2 numbers for 4 levels"),
    ({"layer_ratios": []}, "bad-value", "layer_ratios"), ({"layer_ratios": [0, 1]}, "bad-value", "layer_ratios"),
    ({"salience_loss": "size"}, "unknown-name", "by_size"),
])
def test_options_are_checked(options, code, told) -> None:
    with refused(code, "tiny.yaml row 8", told):
        tiny(**options)


def test_rows_that_are_frozen_do_not_learn() -> None:
    model = build_model("salience-detr-tiny", 3)
    free = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert {"0", "1"}.isdisjoint(free) and {"2", "3", "4"} <= free
    with refused("unknown-name", "frozen", "'stam'"):
        build_model({"base": "salience-detr-tiny", "frozen": ["stam"]})
