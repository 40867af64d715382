"""The files that one training step runs through."""

import pytest

from benchmarks.step_path import build_parser, main


@pytest.mark.slow
def test_a_step_goes_from_the_loader_to_the_loss(capsys):
    main(build_parser().parse_args(["--cfg", "yolov8n"]))
    *files, summary = capsys.readouterr().out.splitlines()
    order = [line.split()[1] for line in files]
    expected = ("data/loading/dataset.py", "models/detector.py", "models/losses/dfl_head.py")
    places = [order.index(name) for name in expected]
    assert places == sorted(places)
    assert summary.endswith(f" functions in {len(files)} files")
