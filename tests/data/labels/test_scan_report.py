"""What a scan says of what it left out."""

import pytest

from data.labels.scan_report import LOST, ScanReport


@pytest.mark.parametrize("kind", LOST)
def test_labels_that_are_left_out_are_told_loudly_above_one_in_a_hundred(kind):
    few, many = (ScanReport(images=10, boxes=980, ignored=10) for _ in range(2))
    few.add(kind, "a.txt line 1", 10)
    many.add(kind, "a.txt line 1", 11)
    assert "WARNING" not in few.format() and "10 labels" in few.format()
    first = many.format().splitlines()[1]
    assert first.startswith("WARNING: 1.1% of all labels (11) are left out") and "`nc`" in first


def test_what_loses_no_label_is_no_warning():
    report = ScanReport(images=10, boxes=5)
    report.add("clipped", "a.txt line 1", 5)
    report.add("other_class", "a.txt line 2", 500)
    assert "WARNING" not in report.format() and "WARNING" not in ScanReport().format()
