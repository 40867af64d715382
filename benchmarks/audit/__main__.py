"""Audit a model, data set and recipe without training: python -m benchmarks.audit --cfg yolov8n-assn --data coco-tiny

Which objects get positives, by size and by assigner; the sizes that the loss sees; whether a neck's gate looks
at objects; where the gradient of the loss goes. --weights looks at a trained model.
"""

import argparse
from pathlib import Path

from benchmarks.audit.figure import draw
from benchmarks.audit.flags import make_parser, read_flags
from benchmarks.audit.gradients import measure_gradients, report_gradients
from benchmarks.audit.neck import look_at_neck
from benchmarks.audit.neck_report import report_neck
from benchmarks.audit.page import NAME, conclusions, write_files
from benchmarks.audit.panels import of_gradients, of_neck, of_positives, of_sizes
from benchmarks.audit.positives import count_positives, report_positives
from benchmarks.audit.sizes import report_sizes, seen_sizes
from benchmarks.record import stamp
from engine.training.assignment_audit import header
from engine.training.config import DEFAULT_MODEL
from engine.training.preview import open_preview
from models.plugins import load_plugins
from utils.device import select_device
from utils.distributed.group import Group
from utils.errors import run_script
from utils.parser import Parser
from utils.reporting.run_log import increment_dir


def build_parser() -> Parser:
    return make_parser(__doc__)


def main(args: argparse.Namespace) -> Path:
    """Look at what the flags name, print the conclusions, write the page; returns its folder."""
    config, names = read_flags(args)
    load_plugins(config.plugin)
    device = select_device(config.device)
    preview = open_preview(config, Group(), device)
    found = count_positives(preview, names, args.batches)
    first = next(iter(found.values()))
    sizes = seen_sizes(preview, first["train"], first["val"])
    strides, necks = preview.model.strides, look_at_neck(preview)
    gradients = measure_gradients(preview, args.batches)
    sections = [report_positives(found, strides), report_sizes(sizes, preview),
                report_neck(necks, strides, config.seed, fresh=not config.weights),
                report_gradients(gradients, strides, args.batches)]
    folder = increment_dir(config.project, config.name, config.exist_ok)
    head = [f"{config.cfg or config.weights or DEFAULT_MODEL} on {config.data or 'shapes'}",
            *header(preview.config, preview.model, device)]
    if not config.noplots:
        panels = [*of_positives(found, strides), *of_sizes(sizes), *of_gradients(gradients, strides),
                  *(panel for record in necks for panel in of_neck(record, config.seed))]
        draw(folder / f"{NAME}.png", head[0], panels)
    write_files(folder, head, sections, stamp(device), picture=not config.noplots)
    print("\n".join([*head, "", *conclusions(sections), "", f"results in {folder}"]))
    return folder


if __name__ == "__main__":
    run_script(main, build_parser())
