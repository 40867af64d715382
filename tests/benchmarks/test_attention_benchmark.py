"""The benchmark of attention at its smallest: it runs, and its page holds what was measured."""

import re

import pytest

from benchmarks.attention import SMALL, build_parser, main
from models.layers.attention import FORMS


@pytest.mark.slow
def test_the_page_holds_a_row_of_each_form(tmp_path):
    main(build_parser().parse_args(["--small", "--rounds", "1", "--channels", "16", "--out", str(tmp_path)]))
    page = (tmp_path / "attention_cpu.md").read_text(encoding="utf-8")
    assert "Made with `--small`" in page
    rows = re.findall(r"\| (\d+) x \d+ \| (\w+) \| \d+ \| \d+ \| -?\d+ \|", page)
    assert rows == [(str(cells), form) for cells in SMALL for form in FORMS]
