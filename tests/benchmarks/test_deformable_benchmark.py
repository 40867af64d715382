"""The benchmark of deformable attention: both forms are one function, and its page holds what was measured."""

import argparse
import re

import pytest
import torch

from benchmarks.deformable import FORMS, SMALL, build_parser, call, inputs, main


def test_both_forms_give_the_same():
    arguments, sizes = inputs(64, argparse.Namespace(batch_size=2), torch.device("cpu"))
    grads = []
    for form in FORMS:
        found = call(form, arguments, sizes)
        grads.append((found, *torch.autograd.grad(found.square().sum(), arguments)))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_the_page_holds_a_row_of_each_form(tmp_path):
    main(build_parser().parse_args(["--small", "--rounds", "1", "--out", str(tmp_path)]))
    page = (tmp_path / "deformable_cpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| (\d+) px \| (\w+) \| \d+ \| \d+ \| -?\d+ \|", page)
    assert "Made with `--small`" in page and rows == [(str(side), form) for side in SMALL for form in FORMS]
