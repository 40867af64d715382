"""Boxes as offsets from priors."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from models.boxes.deltas import MAX_LOG_RATIO, decode_deltas, encode_deltas


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, size = (torch.rand(count, 2, generator=generator) * s for s in (300, 200))
    return torch.cat((corner, corner + size + 1), 1)


@pytest.mark.parametrize("variances, weights", [((1.0, 1.0), (1.0, 1.0, 1.0, 1.0)), ((0.1, 0.2), (10.0, 10, 5, 5))])
def test_coding_is_that_of_torchvision(variances, weights):
    coder, truth, priors = BoxCoder(weights), boxes(50, 0), boxes(50, 1)
    deltas = encode_deltas(truth, priors, variances)
    torch.testing.assert_close(deltas, coder.encode_single(truth, priors), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decode_deltas(deltas, priors, variances), truth, rtol=1e-4, atol=1e-3)
    wild = deltas * 40
    torch.testing.assert_close(decode_deltas(wild, priors, variances, MAX_LOG_RATIO), coder.decode_single(wild, priors),
                               rtol=1e-4, atol=1e-2)


def test_boxes_without_extent_have_finite_offsets():
    deltas = encode_deltas(torch.tensor([5.0, 5, 5, 9]), torch.tensor([0.0, 0, 10, 10]))
    assert torch.isfinite(deltas).all()
    assert deltas[2] == pytest.approx(-13.8155, abs=1e-3)
