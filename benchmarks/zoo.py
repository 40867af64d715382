"""Parameters and GFLOPs of every model beside the published ones: python -m benchmarks.zoo rewrites docs/zoo.md.

Published parameters and GFLOPs (2 multiply-adds of convolutions, 640 px, 80 classes, as trained) are those that the
original code bases build: ultralytics/yolov3 v9.6.0, ultralytics/yolov5, ultralytics/ultralytics 8.1.47,
WongKinYiu/yolov7 (also for YOLOv4-CSP and YOLOR-CSP), smu-ivpl/ssFPN (YOLOv4-P5, P6, YOLOR-P6, W6), smu-ivpl/ASSN and
torchvision (RetinaNet, 91 classes).
"""

import argparse
import json
import re
from functools import cache
from pathlib import Path

import torch

from models import build_model, known_models
from models.registry import known_necks
from models.summary import summarise
from utils.errors import UserError, run_script

ROOT = Path(__file__).resolve().parents[1]
PAGE, TIMES = ROOT / "docs" / "zoo.md", ROOT / "benchmarks" / "results" / "zoo_latency_cpu.json"
SIZE = 640  # px

# name -> parameters, GFLOPs where known
PUBLISHED: dict[str, tuple[int, float | None]] = {
    "yolov3": (61_949_149, 155.9), "yolov3-spp": (62_998_749, 156.7), "yolov3-tiny": (8_852_366, 13.2),
    "yolov4-csp": (52_921_437, 120.2), "yolov4-p5": (70_834_012, 166.7), "yolov4-p6": (127_590_576, 179.3),
    "yolov5n": (1_872_157, 4.5), "yolov5s": (7_235_389, 16.5), "yolov5m": (21_190_557, 49.0),
    "yolov5l": (46_563_709, 109.1), "yolov5x": (86_749_405, 205.7), "yolov5n6": (3_246_940, None),
    "yolov5s6": (12_626_620, None), "yolov5m6": (35_731_932, None), "yolov5l6": (76_770_172, None),
    "yolov5x6": (140_794_780, None), "yolor-csp": (52_923_994, None), "yolor-csp-x": (96_943_410, 226.5),
    "yolor-csp-x-darknet": (99_754_058, None), "yolor-p6": (37_270_264, 81.3), "yolor-p6-csp": (37_265_016, 81.3),
    "yolor-w6": (79_880_952, 113.2), "yolor-w6-csp": (79_873_400, 113.2), "yolov7-tiny": (6_228_762, 13.7),
    "yolov7": (37_622_682, 105.8),
    "yolov7x": (71_347_394, 189.7), "yolov7-w6": (82_312_436, 105.0), "yolov7-e6": (111_898_292, 147.0),
    "yolov7-d6": (154_709_364, 201.5), "yolov7-e6e": (166_408_884, 229.0), "yolov8n": (3_157_200, 8.74),
    "yolov8s": (11_166_560, 28.60), "yolov8m": (25_902_640, 78.94), "yolov8l": (43_691_520, 165.15),
    "yolov8x": (68_229_648, 257.80), "yolov8n-p2": (3_354_144, 17.2), "yolov8s-p2": (10_884_336, 39.3),
    "yolov8m-p2": (25_082_496, 98.4), "yolov8l-p2": (42_888_080, 205.4), "yolov8x-p2": (66_637_536, 316.9),
    "yolov8n-p6": (4_984_352, 8.73), "yolov8s-p6": (17_911_792, 28.51), "yolov8m-p6": (44_887_488, None),
    "yolov8l-p6": (62_384_016, None), "yolov8x-p6": (97_423_072, None),
    "retinanet-r50-torchvision": (34_014_999, None),
    "yolov4-p5-ssfpn": (73_085_532, 236.4), "yolov4-p6-ssfpn": (130_104_752, 271.7),
    "yolor-p6-ssfpn": (39_500_792, 173.2), "yolor-w6-ssfpn": (82_308_088, 205.2),
    "yolov7-ssfpn": (39_852_698, 175.2), "yolov7x-ssfpn": (74_810_754, 297.9), "yolov7-w6-ssfpn": (86_083_316, 248.6),
    "yolov7-assn": (39_420_687, 124.2), "yolov7x-assn": (74_155_515, 218.5), "yolov7-w6-assn": (84_438_633, 125.2),
    "yolov8n-assn": (3_270_392, 9.90), "yolov8s-assn": (11_617_100, 33.22), "yolov8m-assn": (26_877_920, 89.29),
    "yolov8l-assn": (45_358_452, 183.50), "yolov8x-assn": (70_832_968, 286.48), "yolov8n-p6-assn": (5_118_152, 9.99),
    "yolov8s-p6-assn": (18_444_508, 33.55), "yolov8m-p6-assn": (46_047_472, 94.39),
    "yolov8l-p6-assn": (64_313_604, 187.31), "yolov8x-p6-assn": (100_436_632, 292.42)}

# The same with VOC's 20 classes, with which the SSD family is published: counted from the published code and layouts,
# and, to 0.1 million, what the ASSD paper prints where it prints anything.
PUBLISHED_VOC: dict[str, int] = {
    "ssd300": 26_285_486, "ssd512": 27_188_676, "ssd321": 56_759_982, "ssd513": 57_549_764,
    "ssd513-fusion": 58_863_300, "ssd513-att": 66_233_284, "assd300": 29_417_646, "assd512": 30_173_380,
    "assd321": 66_675_118, "assd513": 67_546_820, "retinanet-r101": 55_716_120, "retinanet-r101-att": 55_798_040}
VOC_CLASSES = 20


def measure(name: str) -> list[str]:
    """The cells of a model's row: name, strides, recipe, parameters (ours, published, fused), GFLOPs (ours, published),
    milliseconds (PyTorch, ONNX) as stored.

    Nothing is stored or computed: the model is built without data.
    """
    with torch.device("meta"):
        model = build_model(name)
        voc = build_model(name, VOC_CLASSES) if name in PUBLISHED_VOC else None
    lines = summarise(model, model.frame.size or SIZE)
    params, flops = sum(line.params for line in lines), sum(line.flops for line in lines) / 1e9
    published, published_flops = PUBLISHED.get(name, (None, None))
    strides = " ".join(map(str, model.strides))
    ours = f"{params:,}"
    if voc is not None:
        ours += f"; {sum(p.numel() for p in voc.parameters()):,} for VOC"
        published = PUBLISHED_VOC[name]
    fused = sum(p.numel() for p in model.fuse().parameters())
    return [f"`{name}`", strides, model.config["recipe"], ours, f"{published:,}" if published else "",
            f"{fused:,}", f"{flops:.1f}", f"{published_flops:.1f}" if published_flops else "", *_latency(name)]


@cache
def stored_times() -> dict[str, dict[str, float]]:
    """What `benchmarks.zoo_latency` has measured, by model; nothing where it has not run."""
    return json.loads(TIMES.read_text(encoding="utf-8"))["pieces"] if TIMES.is_file() else {}


def _latency(name: str) -> list[str]:
    times = stored_times().get(name, {})
    return [f"{times[key]:.0f}" if key in times else "" for key in ("torch", "onnx")]


def table(names: list[str]) -> str:
    """The models as a Markdown table."""
    head = ["model", "strides", "recipe", "parameters", "published", "fused", f"GFLOPs at {SIZE}", "published",
            "ms, PyTorch", "ms, ONNX"]
    rows = [head, ["---"] * 3 + ["---:"] * 7, *(measure(name) for name in names)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fill(page: str, key: str, text: str, name: str = PAGE.name) -> str:
    """The page with `text` between the markers of `key`. Raises `UserError` where it, called `name`, has none."""
    start, end = f"<!-- {key} -->\n", f"\n<!-- end of {key} -->"
    found = re.search(f"{re.escape(start)}.*?{re.escape(end)}", page, re.DOTALL)
    if found is None:
        raise UserError(f"{name}: no lines {start.strip()} and {end.strip()} to write the table between",
                        code="corrupt-file")
    return page[:found.start()] + start + text + end + page[found.end():]


def main(args: argparse.Namespace) -> None:
    """Write the page's tables, or tell whether they are what would be written."""
    old = page = PAGE.read_text(encoding="utf-8")
    for neck in ("pan", *known_necks()):
        suffix = "" if neck == "pan" else f"-{neck}"
        page = fill(page, neck, table([name + suffix for name in known_models()]))
        print(f"{neck}: {len(known_models())} models")
    if args.check and page != old:
        raise UserError(f"{PAGE.name} is not what the models are: python -m benchmarks.zoo", code="stale-page")
    PAGE.write_text(page, encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true", help="fail where the page differs, as a test would")
    return flags


if __name__ == "__main__":
    run_script(main, build_parser())
