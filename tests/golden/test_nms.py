"""NMS against the stored results of yolov7 and ultralytics."""

import numpy as np
import pytest
import torch

from utils.boxes import cxcywh_to_xyxy
from utils.select import SelectConfig, non_max_suppression

WORDS = {"conf_thres": "conf", "iou_thres": "iou", "max_nms": "max_candidates"}


def decoded(fn: str, number: int | str, arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    if fn == "ultralytics":
        pred = torch.from_numpy(arrays["pred_ultralytics"]).transpose(1, 2)  # (B, N, 4+nc)
        return cxcywh_to_xyxy(pred[..., :4]), pred[..., 4:]
    if number == "nc1":  # with one class yolov7 takes the objectness alone
        pred = torch.from_numpy(arrays["pred_yolov7_nc1"])
        return cxcywh_to_xyxy(pred[..., :4]), pred[..., 4:5]
    pred = torch.from_numpy(arrays["pred_yolov7"])  # (B, N, 5+nc)
    return cxcywh_to_xyxy(pred[..., :4]), pred[..., 5:] * pred[..., 4:5]


@pytest.mark.parametrize("index", range(13))
def test_original_results(golden, index):
    meta, arrays = golden("nms")
    assert len(meta["configs"]) == 13
    config = meta["configs"][index]
    boxes, scores = decoded(config["fn"], config["id"], arrays)
    settings = {WORDS.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in config["args"].items()}
    limit = {k: settings.pop(k) for k in ("max_candidates",) if k in settings}
    found = non_max_suppression(boxes, scores, SelectConfig(**settings), **limit)
    stem = f"{config['fn']}_nc1" if config["id"] == "nc1" else f"{config['fn']}_c{config['id']}"
    for image, got in enumerate(found):
        want = arrays[f"{stem}_img{image}"]  # rows x1 y1 x2 y2 score class
        assert len(got) == len(want)
        np.testing.assert_array_equal(got.labels.numpy(), want[:, 5])
        np.testing.assert_allclose(got.scores.numpy(), want[:, 4], rtol=1e-6)
        np.testing.assert_allclose(got.boxes.numpy(), want[:, :4], atol=1e-4)
