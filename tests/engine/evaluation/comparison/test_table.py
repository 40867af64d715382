"""One table of several models, as text, CSV and LaTeX."""

import csv
import io
from dataclasses import replace

from engine.evaluation.comparison.bootstrap import Difference
from engine.evaluation.comparison.compare import short_names
from engine.evaluation.comparison.table import Facts, Row, escaped, format_differences, format_rows, to_csv, to_latex
from engine.evaluation.metrics.protocol import COCO

BASE = dict.fromkeys(COCO.names, 0.25)


def rows() -> list[Row]:
    gains = {"coco": {"AP": Difference(0.05, 0.01, 0.09), "AP50": Difference(-0.02, -0.1, 0.06)}}
    return [Row("a_1 & b", {"coco": BASE | {"AP_L": -1.0}}, Facts(3_200_000, 8.7e9, "640 x 640", 12.34)),
            Row("runs/b", {"coco": BASE | {"AP": 0.3004, "AP50": 0.23, "AP_L": -1.0}}, Facts(), gains, unseen=3)]


def test_text_shows_all_numbers_and_what_is_not_known():
    lines = format_rows(rows(), [COCO]).splitlines()
    assert lines[0] == "COCO: IoU 0.50 to 0.95, 100 detections"
    assert lines[1].split() == ["Model", "Params", "(M)", "GFLOPs", "Size", "ms", *COCO.names]
    assert lines[2].split() == ["a_1", "&", "b", "3.20", "8.7", "640", "x", "640", "12.3", *["0.250"] * 5, "-",
                                *["0.250"] * 6]
    assert lines[3].split()[:6] == ["runs/b", "-", "-", "-", "-", "0.300"] and lines[3].split()[10] == "-"
    assert lines[4] == "runs/b: 3 images were not evaluated: their objects count as missed"
    assert len({len(line) for line in lines[1:4]}) == 1


def test_differences_say_whether_zero_is_outside():
    text = format_differences(rows(), [COCO], "10 resamples")
    assert "AP         +0.0500  [+0.0100, +0.0900]  0 is outside" in text
    assert "AP50       -0.0200  [-0.1000, +0.0600]  0 is inside" in text and "runs/b minus a_1 & b, coco" in text
    assert format_differences([*rows()][:1], [COCO], "") == ""


def test_csv_has_all_digits():
    table = list(csv.DictReader(io.StringIO(to_csv(rows(), [COCO]))))
    assert table[1]["coco AP"] == "0.3004" and table[1]["coco AP low"] == "0.01" and table[0]["coco AP low"] == ""
    assert table[0]["parameters"] == "3200000" and table[0]["coco AP_L"] == "" and table[1]["parameters"] == ""


def test_latex_is_booktabs_with_the_best_bold():
    text = to_latex(rows(), [COCO])
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrrrrrr}" and lines[2] == r"\toprule" and lines[-2] == r"\end{tabular}"
    assert lines[3].startswith(r"Model & Params (M) & GFLOPs & Size & Time (ms) & AP & AP$_{\mathrm{50}}$ & ")
    assert lines[5] == (r"a\_1 \& b & 3.20 & 8.7 & 640$\times$640 & 12.3 & 25.0 & \textbf{25.0} & \textbf{25.0} & "
                        r"\textbf{25.0} & \textbf{25.0} & -- \\")
    assert lines[6] == (r"runs/b & -- & -- & -- & -- & \textbf{30.0}$^{\dagger}$ & 23.0 & \textbf{25.0} & "
                        r"\textbf{25.0} & \textbf{25.0} & -- \\")
    assert lines[-1].startswith("% dagger: 0 lies outside of the 95 % interval")
    for line in (lines[3], *lines[5:7]):
        assert line.replace(r"\&", "").count("&") == 10


def test_latex_of_two_protocols_groups_the_columns():
    other = replace(COCO, name="other", title="Other: of a_b")
    both = [Row(r.name, {**r.values, "other": r.values["coco"]}) for r in rows()]
    lines = to_latex(both, [COCO, other]).splitlines()
    assert lines[3] == r"  & \multicolumn{6}{c}{COCO} & \multicolumn{6}{c}{Other} \\"
    assert lines[4] == r"\cmidrule(lr){2-7} \cmidrule(lr){8-13}"


def test_names_are_escaped():
    assert escaped(r"50% of_a\b~^{x}#$") == (r"50\% of\_a\textbackslash{}b\textasciitilde{}\textasciicircum{}\{x\}\#\$")


def test_names_tell_files_apart():
    assert short_names(["runs/a/best.pt", "runs/b/best.pt", "x.json"]) == ["a/best", "b/best", "x"]
    assert short_names(["x.json", "x.json"]) == ["x (1)", "x (2)"]
    assert short_names(["best.pt", "runs/best.pt"]) == ["best", "runs/best"]
