"""The matrix of exports runs, and has a row for each file."""

import pytest

from benchmarks import export_matrix


@pytest.mark.slow
def test_a_page_is_written(tmp_path):
    words = ["--small", "--families", "yolov5n", "--out", str(tmp_path)]
    rows = export_matrix.main(export_matrix.build_parser().parse_args(words))
    assert [row["format"] for row in rows] == ["PyTorch", "onnx", "onnx --half"]
    assert all(row["ms"] for row in rows) and not any(row["refused"] for row in rows)
    text = (tmp_path / "export_matrix_cpu.md").read_text(encoding="utf-8")
    assert text.count("| yolov5n |") == 3 and "tiny sizes that only show" in text
