"""The benchmark of assignment at its smallest: it runs, and its page holds what was measured."""

import re

import pytest

from benchmarks.assign import MODELS, build_parser, main


@pytest.mark.slow
def test_the_page_holds_a_ratio_and_the_cost_of_many_boxes(tmp_path):
    main(build_parser().parse_args(["--small", "--out", str(tmp_path)]))
    page = (tmp_path / "assign_cpu.md").read_text(encoding="utf-8")
    assert "Made with `--small`" in page
    step, ota, ratio = re.search(rf"\| `{MODELS[0]}` \| (\d+) \| (\d+) \| \*\*([\d.]+)\*\* \|", page).groups()
    assert 0 < float(ratio) < 100 and int(step) >= 0 and int(ota) >= 0
    rows = re.findall(r"\| `(yolo\w+-?\w*)` \| ([\w-]+) \| 10 \| \d+ \| \d+ \|", page)
    assert rows == [("yolov8n", "task-aligned"), ("yolov7-tiny", "anchor"), ("yolov7-tiny", "ota")]
