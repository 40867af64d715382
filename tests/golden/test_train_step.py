"""One training step of whole models against the original implementations: outputs, gradients, running statistics."""

import numpy as np
import pytest
import torch

from models import build_model
from models.weights import import_state_dict
from tests.golden_rule import filled_state_dict, rule_input

OURS = {"yolov5s": "yolov5s", "yolov7-assn": "yolov7-assn", "yolov7-ss": "yolov7-ssfpn", "yolov8n": "yolov8n",
        "yolov8n-assn": "yolov8n-assn"}


@pytest.fixture(params=OURS, scope="module")
def step(request, golden):
    """(meta, arrays, maps in the fixture's order, loss, gradients and statistics by the original's keys)."""
    meta, arrays = golden(f"train_{request.param}")
    model = build_model(OURS[request.param], meta["nc"]).train()
    report = import_state_dict(model, filled_state_dict(meta))
    raw = model(rule_input(meta["input_shape"]))
    if "box" in raw.maps:
        maps = [m for pair in zip(raw.maps["box"], raw.maps["cls"], strict=True) for m in pair]
    else:
        maps = list(raw.maps["lead"])
    loss = sum((m**2).mean() for m in maps)
    loss.backward()
    theirs = {our: their for their, our in report.transferred}
    gradients = {theirs[k]: p.grad for k, p in model.named_parameters() if k in theirs}
    statistics = {theirs[k]: b for k, b in model.named_buffers() if k in theirs}
    return meta, arrays, maps, loss, gradients, statistics


def test_outputs(step):
    meta, arrays, maps, loss, *_ = step
    assert float(loss.detach()) == pytest.approx(meta["loss"], rel=1e-5)
    expected = [arrays[k] for k in sorted(arrays, key=_level) if k.startswith("raw")]
    for ours, wanted, noise in zip(maps, expected, meta["noise"]["raw"], strict=True):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(wanted), rtol=0, atol=20 * noise)


def _level(name: str) -> tuple[str, str]:
    return name[-1], name  # raw_box_0, raw_cls_0, raw_box_1 ...


def test_gradients(step):
    meta, arrays, _, _, gradients, _ = step
    rounding_only = set(meta["zero_grad_keys"]) | set(meta["no_grad_keys"])
    keys = [k for k in meta["grad_keys"] if k not in rounding_only]
    assert set(keys) <= set(gradients)
    ours = np.array([float(gradients[k].norm()) for k in keys])
    wanted = np.array([arrays["grad_l2"][meta["grad_keys"].index(k)] for k in keys])
    np.testing.assert_allclose(ours, wanted, rtol=max(1e-3, 20 * meta["noise"]["grad_l2_max_rel"]))


def test_running_statistics(step):
    meta, arrays, *_, statistics = step
    ours = [statistics[k] for k in meta["bn_keys"]]
    np.testing.assert_allclose([float(s.norm()) for s in ours], arrays["bn_l2"], rtol=1e-3)
    # A sum may cancel: what matters then is its error against the size of what was summed.
    size = [float(s.abs().sum()) for s in ours]
    assert np.all(np.abs([float(s.sum()) for s in ours] - arrays["bn_sum"]) <= 1e-3 * np.array(size))
