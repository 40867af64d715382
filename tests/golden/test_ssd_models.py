"""SSD300 and ASSD513 against the original implementations: raw outputs, priors, detections, and one training step."""

import numpy as np
import pytest
import torch

from models import build_model
from models.weights.rename import our_names
from tests.golden_rule import filled_state_dict, rule_input
from utils.boxes import xyxy_to_cxcywh
from utils.select import SelectConfig
from utils.structures import Raw

OURS = {"ssd300-vgg": "ssd300", "assd-resnet101-513": "assd513"}


def with_weights(name: str, meta: dict) -> torch.nn.Module:
    """Our model, without the background among its classes, with the original's weights by their names."""
    with torch.device("meta"):
        model = build_model(name, meta["nc"] - 1)
    names = names_of(model, [key for key, *_ in meta["state_dict"]])
    model.load_state_dict({names[key]: value for key, value in filled_state_dict(meta).items()}, assign=True)
    return model.requires_grad_()


def names_of(model: torch.nn.Module, names: list[str]) -> dict[str, str]:
    """What names of an original are in the state dict of ours, as the head declares."""
    return {their: f"model.{our}" for their, our in our_names(model.model, names, model.head.renames).items()}


def run(model: torch.nn.Module, images: torch.Tensor) -> Raw:
    """The network alone: the fixtures' pixels are not normalised."""
    return Raw(model.model(images), tuple(images.shape[2:]))


def flat(model: torch.nn.Module, raw: Raw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Offsets and logits as the original orders them, priors (P, 4) as fractions of the input in the same order."""
    offsets, logits, priors = model.head.flat(raw)
    height, width = raw.image_size
    priors = xyxy_to_cxcywh(priors) / torch.tensor([width, height, width, height])
    return offsets[..., model.head.order], logits, priors[..., model.head.order]


@pytest.fixture(params=OURS, scope="module")
def case(request, golden):
    """(meta, arrays, our model, its raw output)."""
    meta, arrays = golden(request.param)
    model = with_weights(OURS[request.param], meta).eval()
    with torch.no_grad():
        return meta, arrays, model, run(model, rule_input(meta["input_shape"]))


def test_parameters_and_steps(case):
    meta, _, model, _ = case
    assert sum(p.numel() for p in model.parameters()) == meta["n_params"]
    assert model.strides == meta["strides"]
    assert model.head.per_cell == meta["mbox"]


@torch.no_grad()
def test_raw_outputs_and_priors(case):
    meta, arrays, model, raw = case
    offsets, logits, priors = flat(model, raw)
    noise = meta["noise_f32_vs_f64_max_abs"]
    np.testing.assert_allclose(priors, arrays["priors"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(offsets, arrays["locs"], rtol=0, atol=max(1e-4, 20 * noise["locs"]))
    wanted = {"conf": logits, "conf_rows5": logits[:, ::5], "conf_tail": logits[:, -190:]}
    for name in wanted.keys() & arrays.keys():
        np.testing.assert_allclose(wanted[name], arrays[name], rtol=0, atol=max(1e-4, 20 * noise["conf"]))


def check_detections(model, boxes, scores, wanted, size, allowed):
    """Rows (score, box) per class, class 0 the background, against ours; all but `allowed` of them are equal."""
    limit = SelectConfig(0.01, 0.45, 200 * scores.shape[2], multi_label=True, per_class=200)
    (found,) = model.select(boxes, scores, limit)
    order, differ, total = model.head.order, 0, 0
    for label in range(scores.shape[2]):
        rows = wanted[0, label + 1]
        rows = rows[rows[:, 0] > 0]
        of_class = found.labels == label
        ours = torch.cat((found.scores[of_class, None], found.boxes[of_class][:, order] / size), 1).numpy()[:len(rows)]
        assert len(ours) == len(rows)
        differ += int((np.abs(ours - rows).max(1) > 1e-4).sum())
        total += len(rows)
    assert differ <= allowed * total and total >= 800


@torch.no_grad()
def test_detections(case):
    meta, arrays, model, raw = case
    check_detections(model, *model.decode(raw), arrays["detections"], meta["input_shape"][2], 0.005)


@torch.no_grad()
def test_detections_of_predictions_by_rule(golden):
    """Decoding and selection of scores that differ widely, without a network."""
    meta, arrays = golden("ssd300-vgg")
    model = build_model("ssd300", 20)
    locs = (np.random.RandomState(700).standard_normal((1, 8732, 4)) * 0.5).astype(np.float32)
    conf = (np.random.RandomState(701).standard_normal((1, 8732, 21)) * 3.0).astype(np.float32)
    maps, start = {"loc": [], "conf": []}, 0
    for side, count in zip(meta["feature_maps"], meta["mbox"], strict=True):
        rows = slice(start, start + side * side * count)
        for name, values in (("loc", locs), ("conf", conf)):
            level = torch.from_numpy(values[:, rows]).reshape(1, side, side, -1).permute(0, 3, 1, 2)
            maps[name].append(level)
        start = rows.stop
    raw = Raw({name: tuple(levels) for name, levels in maps.items()}, (300, 300))
    check_detections(model, *model.decode(raw), arrays["detections_rule"], 300, 0)


@pytest.fixture(scope="module")
def step(golden):
    """(meta, arrays, outputs, loss, norms of the gradients, sums and norms of the statistics)."""
    meta, arrays = golden("train_assd-resnet101-513-gain0.1")
    model = with_weights("assd513", meta).train()
    locs, conf, _ = flat(model, run(model, rule_input(meta["input_shape"])))
    loss = (locs**2).mean() + (conf**2).mean()
    loss.backward()
    names = names_of(model, [key for key, *_ in meta["state_dict"]])
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    gradients = [float(parameters[names[key]].grad.norm()) for key in meta["grad_keys"]]
    statistics = [(float(buffers[names[key]].sum()), float(buffers[names[key]].norm())) for key in meta["bn_keys"]]
    return meta, arrays, (locs.detach(), conf.detach()), float(loss.detach()), gradients, statistics


@pytest.mark.slow
def test_outputs_and_loss_of_a_training_step(step):
    meta, arrays, (locs, conf), loss, _, _ = step
    assert loss == pytest.approx(meta["loss_f64"], rel=1e-4)
    for name, ours in (("raw_locs_rows13", locs[:, ::13]), ("raw_conf_rows37", conf[:, ::37]),
                       ("raw_locs_tail", locs[:, -190:]), ("raw_conf_tail", conf[:, -190:])):
        np.testing.assert_allclose(ours, arrays[name], rtol=0, atol=0.01)  # as golden/README.md says


@pytest.mark.slow
def test_gradients_and_statistics_of_a_training_step(step):
    meta, arrays, _, _, gradients, statistics = step
    for i, key in enumerate(meta["grad_keys"]):
        if key not in meta["zero_grad_keys"]:
            tolerance = max(0.02, 20 * float(arrays["grad_l2_rel_noise"][i]))
            assert gradients[i] == pytest.approx(float(arrays["grad_l2_f64"][i]), rel=tolerance), key
    for (total, norm), wanted_sum, wanted in zip(statistics, arrays["bn_sum"], arrays["bn_l2"], strict=True):
        assert norm == pytest.approx(float(wanted), rel=1e-4)
        assert abs(total - float(wanted_sum)) <= 2e-3 * (abs(float(wanted_sum)) + float(wanted))


@pytest.mark.slow
def test_a_training_step_of_full_weights(golden):
    """With attention that is nearly an argmax only the loss, the statistics and levels 0 and 3 to 6 can be compared."""
    meta, arrays = golden("train_assd-resnet101-513")
    model = with_weights("assd513", meta).train()
    with torch.no_grad():
        locs, conf, _ = flat(model, run(model, rule_input(meta["input_shape"])))
    assert float((locs**2).mean() + (conf**2).mean()) == pytest.approx(meta["loss_f64"], rel=3e-4)
    names, buffers = names_of(model, meta["bn_keys"]), dict(model.named_buffers())
    for key, wanted in zip(meta["bn_keys"], arrays["bn_l2"], strict=True):
        assert float(buffers[names[key]].norm()) == pytest.approx(float(wanted), rel=1e-3), key
    start = 0
    for level, count in enumerate(meta["rows_per_level"]):
        rows, start = slice(start, start + count), start + count
        if level in (0, 3, 4, 5, 6):
            for name, ours, every in (("locs", locs, 13), ("conf", conf, 37)):
                kept = np.arange(0, locs.shape[1], every)
                kept = (kept >= rows.start) & (kept < rows.stop)
                wanted = arrays[f"raw_{name}_rows{every}"][:, kept]
                np.testing.assert_allclose(ours[:, ::every][:, kept], wanted, rtol=0,
                                           atol=3 * meta["noise"]["raw_per_level"][name][level])
