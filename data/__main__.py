"""`python -m data bccd`: what a dataset holds, what is wrong with it, and pictures of it; `--sizes`: how large objects
are in training, beside validation."""

import argparse
import json
import sys
import time
from typing import Any

from data.augment.policies.from_recipe import read_policy
from data.doctor.checks import Finding, Pair, compare_classes, compare_images, examine, verdict
from data.index import Index, load_index
from data.tiles import tile_index
from utils.cli import LONGEST_SIDE, OneOrTwo, Rule, check_flags, number, positive
from utils.config import find_config
from utils.errors import UserError, run_script
from utils.files import write_bytes
from utils.options import add_flag, max_pixels_option
from utils.parser import Parser
from utils.truth import AREA_RANGES

SPLITS = ("train", "val", "test")
RULES = [
    *(Rule(name, lambda args, _: args.sizes, "it belongs to --sizes; add that, or drop this")
      for name in ("hyp", "tile", "tile_overlap", "samples")),
    Rule("tile_overlap", lambda args, _: args.tile or not args.sizes, "windows overlap where there are some; add "
         "--tile"),
    Rule("imgsz", lambda args, _: args.sizes or len(args.imgsz) == 1, "a second size is that of validation, for "
         "--sizes"),
    *(Rule(name, lambda args, _: not args.sizes, "--sizes compares train with val, and looks for nothing else; drop it")
      for name in ("split", "duplicates")),
]
NEAR_LIMIT = 20_000  # images up to which near copies are looked for unasked: each must be decoded, some 1 ms of a core


def table(index: Index) -> str:
    """Boxes by class and by COCO size, with totals."""
    counts = index.counts()
    width = max(map(len, (*index.names, "class"))) + 2
    rows = [f"{'class':<{width}}" + "".join(f"{word:>10}" for word in (*AREA_RANGES, "all"))]
    for name, row in zip((*index.names, "all"), (*counts, counts.sum(0)), strict=True):
        rows.append(f"{name:<{width}}" + "".join(f"{n:>10}" for n in (*row, row.sum())))
    return "\n".join(rows)


def summary(numbers: dict[str, Any]) -> str:
    """Image sizes, objects per image, shares."""
    sizes = ", ".join(f"{word} {w}x{h}" for word, (w, h) in numbers["image_sizes"].items())
    return (f"  images: {sizes}; {numbers['background'] / numbers['images']:.1%} background\n"
            f"  objects per image: median {numbers['median_objects']:g}, most {numbers['most_objects']}; "
            f"{numbers['small_share']:.1%} small (area below 32 x 32 px)")


def load_splits(args: argparse.Namespace) -> dict[str, Index]:
    """The split asked for, or each that the YAML has."""
    indexes = {}
    for split in [args.split] if args.split else SPLITS:
        try:
            indexes[split] = load_index(args.data, split, cache=not args.no_cache, strict=args.strict,
                                        max_pixels=args.max_pixels)
        except UserError as error:
            if args.split or error.code != "missing-split":
                raise
    if not indexes:
        raise UserError(f"{args.data}: no `train:`, `val:` or `test:` in it; add one such as `train: images/train`",
                        "missing-split")
    return indexes


def main(args: argparse.Namespace) -> None:
    """The doctor's report, or with `--sizes` that of sizes."""
    check_flags(args, RULES)
    if args.sizes:
        report_sizes(args)
    else:
        report(args)


def report_sizes(args: argparse.Namespace) -> None:
    """Print sizes of objects in training and in validation, write sizes.json and sizes.png."""
    from data.doctor import seen_sizes
    from utils.reporting.run_log import increment_dir

    policy = read_policy(args.hyp)
    train, val = (load_index(args.data, split, cache=not args.no_cache, strict=args.strict, max_pixels=args.max_pixels,
                             polygons=split == "train" and policy.needs_polygons) for split in ("train", "val"))
    train = train.for_training()
    tiled = tile_index(train, args.tile, args.tile_overlap) if args.tile else train
    first, last = args.imgsz[0], args.imgsz[-1]
    frame, val_frame = (seen_sizes.frame_of(policy, side) for side in (first, last))
    settings = tiled, policy, first, args.samples, args.seed
    rows = [seen_sizes.labelled(f"labels of train at {first} px", train, frame, first)]
    if args.tile:
        rows.append(seen_sizes.labelled(f"its tiles of {args.tile} at {first} px", tiled, frame, first))
    rows.append(seen_sizes.augmented(*settings))
    if policy.shows_others:
        rows.append(seen_sizes.augmented(*settings, mosaic=False))
    where = f" in tiles of {args.tile}" if args.tile else ""
    val = tile_index(val, args.tile) if args.tile else val  # as evaluation looks at it
    rows.append(seen_sizes.labelled(f"validation{where} at {last} px", val, val_frame, last))
    said = seen_sizes.difference(next(row for row in rows if row.what == seen_sizes.IN_TRAINING), rows[-1])
    print(f"{train.source}: {args.samples:,} samples of {find_config(args.hyp, 'train')}: "
          f"{seen_sizes.describe(policy)}\n\n{seen_sizes.format_table(rows)}\n\n{said}")
    folder = increment_dir(args.project, args.name or find_config(args.data, "data").stem, args.exist_ok)
    content = {"data": str(args.data), "recipe": str(args.hyp), "imgsz": args.imgsz, "tile": args.tile,
               "samples": args.samples, "seed": args.seed, **seen_sizes.to_json(rows, policy, said)}
    write_bytes(folder / "sizes.json", json.dumps(content, indent=1).encode())
    if not args.noplots:
        seen_sizes.plot_sizes(rows, folder / "sizes.png")
    print(f"{folder / 'sizes.json'}" + ("" if args.noplots else f", {folder / 'sizes.png'}"))


def report(args: argparse.Namespace) -> None:
    """Print the report of each split and of all together, write report.json and sheet.jpg, end with the verdict."""
    began = time.perf_counter()
    indexes = load_splits(args)
    findings: list[Finding] = []
    numbers, suspects = {}, {}
    for split, index in indexes.items():
        found, numbers[split], suspects[split] = examine(index, split, args.imgsz[0])
        findings += found
        print(f"{index.source} ({index.source.format}, {index.source.root}): {index.report.format()}\n{table(index)}\n"
              f"{summary(numbers[split])}\n")
    findings += compare_classes(indexes)
    pairs: list[Pair] = []
    images = sum(map(len, indexes.values()))
    near = args.duplicates == "near" or (args.duplicates == "auto" and images <= NEAR_LIMIT)
    if args.duplicates != "off":
        found, pairs = compare_images(indexes, near)
        findings += found
        if not near and args.duplicates == "auto":
            print(f"near copies were not looked for among {images} images: --duplicates near, some "
                  f"{images / 60_000:.0f} min of a core\n")
    scanned = {kind for index in indexes.values() for kind in index.report.findings}
    own = [f for f in findings if f.kind not in scanned]  # those of the scan were printed with their split
    print("\n".join(["findings:", *(f.format() for f in own)]) if own else "findings: none")
    word, reasons = verdict(findings)
    write(args, indexes, findings, numbers, suspects, pairs, word)
    print("\n".join([f"{images} images in {time.perf_counter() - began:.1f} s", f"verdict: {word}",
                     *(f"  {reason}" for reason in reasons)]))
    if args.strict and word != "healthy":
        sys.exit(1)


def write(args: argparse.Namespace, indexes: dict[str, Index], findings: list[Finding],
          numbers: dict[str, Any], suspects: dict[str, Any], pairs: list[Pair], word: str) -> None:
    """report.json and sheet.jpg into a folder of their own."""
    from data.doctor.contact_sheet import save_sheet  # these two import torch, which nothing before needs
    from utils.reporting.run_log import increment_dir

    folder = increment_dir(args.project, args.name or find_config(args.data, "data").stem, args.exist_ok)
    twins = [{"a": indexes[p.a[0]].records[p.a[1]].path, "b": indexes[p.b[0]].records[p.b[1]].path,
              "splits": [p.a[0], p.b[0]], "exact": p.exact, "likeness": round(p.likeness, 4), "same_labels": p.same}
             for p in pairs]
    content = {"data": str(args.data), "verdict": word, "splits": numbers, "findings": [vars(f) for f in findings],
               "duplicates": twins}
    write_bytes(folder / "report.json", json.dumps(content, indent=1).encode())
    if not args.noplots:
        save_sheet(indexes, suspects, pairs, folder / "sheet.jpg", args.seed)
    print(f"\n{folder / 'report.json'}" + ("" if args.noplots else f", {folder / 'sheet.jpg'}"))


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = Parser(prog="python -m data", description=__doc__)
    flags.add_argument("data", help="a name in cfg/data, or the path of a data YAML")
    what = flags.group("what is looked at")
    what.add_argument("--split", choices=SPLITS, help="one split only")
    what.add_argument("--imgsz", "--img", "--img-size", type=positive, default=[640], metavar="PX", nargs="+",
                      action=OneOrTwo, help="size of the training that is planned; --sizes: second, of validation")
    what.add_argument("--duplicates", choices=["auto", "off", "exact", "near"], default="auto",
                      help=f"auto: near copies too of up to {NEAR_LIMIT:,} images")
    add_flag(what, "max_pixels", max_pixels_option())
    what.add_argument("--strict", action="store_true", help="fail where anything would be repaired, or is not healthy")
    what.add_argument("--no-cache", action="store_true", help="read all labels again")
    sizes = flags.group("sizes of objects in training, beside validation")
    sizes.add_argument("--sizes", action="store_true", help="only this: sizes after mosaic, scale, crop and tiles")
    sizes.add_argument("--hyp", default="yolov8", metavar="RECIPE",
                       help="name in cfg/train or a YAML whose augmentation is looked at; default yolov8")
    sizes.add_argument("--tile", type=number(int, 32, LONGEST_SIDE), metavar="PX", help="as in train.py")
    sizes.add_argument("--tile-overlap", type=number(float, 0, 0.9), default=0.2, metavar="F", help="as in train.py")
    sizes.add_argument("--samples", type=positive, default=2000, metavar="N",
                       help="training samples that are planned; default 2000")
    written = flags.group("what is written")
    written.add_argument("--noplots", action="store_true", help="no picture sheet")
    written.add_argument("--seed", type=int, default=0, metavar="N", help="of the pictures, or of the samples")
    written.add_argument("--project", default="runs/data", metavar="DIR", help="folder of results")
    written.add_argument("--name", metavar="NAME", help="folder within it; default: the name of the YAML")
    written.add_argument("--exist-ok", action="store_true", help="write into the folder of that name again")
    return flags


if __name__ == "__main__":
    run_script(main, build_parser())
