"""ASSD's attention unit: three forms of one function, its memory, its symmetry, what one pixel looks at."""

import pytest
import torch

from models.layers import attention
from models.layers.attention import FORMS, SelfAttention, attention_weights, chunked_attention, plain_attention
from utils.errors import UserError


def inputs(batch: int = 2, pixels: int = 30, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, pixels, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for c in (4, 4, 9)]


@pytest.mark.parametrize("budget", [1, 2 * 30 * 7, 1 << 20])  # chunks of 1, of 7 and of all queries
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_formula_with_its_gradients(form, budget, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_CPU", budget)
    query, key, value = inputs()
    weights = torch.stack([(q.t() @ k).softmax(-1) for q, k in zip(query, key, strict=True)])  # row: a query
    wanted = torch.stack([v @ w.t() for v, w in zip(value, weights, strict=True)])
    grad = torch.randn(wanted.shape, dtype=wanted.dtype)
    wanted_grads = torch.autograd.grad(wanted, (query, key, value), grad)
    found = FORMS[form](query, key, value)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(torch.autograd.grad(found, (query, key, value), grad), wanted_grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_chunks_in_low_precision(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_CPU", 2 * 30 * 7)
    exact, rounded = inputs(), inputs(dtype=dtype)
    grad = torch.randn(2, 9, 30, dtype=torch.float64)
    wanted = plain_attention(*exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = chunked_attention(*rounded)
    assert found.dtype == dtype
    found.backward(grad.to(dtype))
    wanted.backward(grad)
    for ours, theirs in ((found, wanted), *((a.grad, b.grad) for a, b in zip(rounded, exact, strict=True))):
        assert ((ours.double() - theirs).norm() / theirs.norm()).item() < tolerance


def test_large_logits_stay_exact_in_16_bits():
    """Two keys whose logits differ by less than bfloat16 tells apart at their size."""
    query = torch.ones(1, 2, 1, dtype=torch.bfloat16)
    key = torch.tensor([[[100.0, 100.0], [0.0, 0.25]]], dtype=torch.bfloat16)
    torch.testing.assert_close(attention_weights(query, key)[0, 0], torch.tensor([0.0, 0.25]).softmax(0))


def kept(form: str, pixels: int) -> int:
    """Numbers that a form keeps for its backward."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel()
        return tensor

    arguments = inputs(1, pixels, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        FORMS[form](*arguments)
    return total


def test_chunks_keep_no_square_of_the_pixels():
    assert kept("plain", 300) > 300 * 300
    assert kept("chunked", 300) == 300 * (4 + 4 + 9)
    assert kept("chunked", 600) == 2 * kept("chunked", 300)


def test_the_order_of_pixels_does_not_matter():
    torch.manual_seed(0)
    unit, x = SelfAttention(16).double(), torch.randn(2, 16, 5, 6, dtype=torch.float64)
    order = torch.randperm(30)
    turned = unit(x.flatten(2)[..., order].reshape(x.shape))
    torch.testing.assert_close(turned, unit(x).flatten(2)[..., order].reshape(x.shape))


@torch.no_grad()
def test_the_unit_adds_what_its_convolutions_say():
    torch.manual_seed(0)
    unit, x = SelfAttention(16, reduction=4).double(), torch.randn(1, 16, 3, 4, dtype=torch.float64)
    assert [tuple(p.shape) for p in unit.parameters()] == [(4, 16, 1, 1), (4, 16, 1, 1), (16, 16, 1, 1)]
    pixels = x[0].flatten(1)
    q, k, v = (conv.weight[:, :, 0, 0] @ pixels for conv in (unit.query, unit.key, unit.value))
    weights = (q.t() @ k).softmax(-1)
    torch.testing.assert_close(unit(x)[0].flatten(1), pixels + v @ weights.t())
    looked = unit.weights(x, 2, 1)
    torch.testing.assert_close(looked[0].flatten(), weights[2 * 4 + 1])


def test_a_traced_unit_holds_the_formula_and_gives_the_same():
    torch.manual_seed(0)
    unit, x = SelfAttention(16), torch.randn(1, 16, 4, 4)
    traced = torch.jit.trace(unit, x, check_trace=False)
    assert "PythonOp" not in str(traced.graph) and "softmax" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), unit(x))


def test_a_wrong_form_is_told():
    with pytest.raises(UserError, match="chunked"):
        SelfAttention(16, form="chunk")
