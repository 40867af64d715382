"""`python -m data bccd --split train`: what a dataset holds, and what is wrong with it."""

import argparse

from data.index import SIZE_BINS, Index, load_index
from utils.errors import UserError, run_script


def table(index: Index) -> str:
    """Boxes by class and by COCO size, with totals."""
    counts = index.counts()
    width = max(map(len, (*index.names, "class"))) + 2
    rows = [f"{'class':<{width}}" + "".join(f"{word:>10}" for word in (*SIZE_BINS, "all"))]
    for name, row in zip((*index.names, "all"), (*counts, counts.sum(0)), strict=True):
        rows.append(f"{name:<{width}}" + "".join(f"{n:>10}" for n in (*row, row.sum())))
    return "\n".join(rows)


def main(args: argparse.Namespace) -> None:
    """Print the report and the table of each split asked for, or of each that the YAML has."""
    shown = 0
    for split in [args.split] if args.split else ["train", "val", "test"]:
        try:
            index = load_index(args.data, split, cache=not args.no_cache, strict=args.strict)
        except UserError as error:
            if args.split or f"no `{split}:`" not in str(error):
                raise
            continue
        shown += 1
        print(f"{index.source} ({index.source.format}, {index.source.root}): {index.report.format()}\n{table(index)}\n")
    if not shown:
        raise UserError(f"{args.data}: no `train:`, `val:` or `test:` in it; add one such as `train: images/train`")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m data", description=__doc__)
    parser.add_argument("data", help="a name in cfg/data, or the path of a data YAML")
    parser.add_argument("--split", choices=["train", "val", "test"], help="one split only")
    parser.add_argument("--strict", action="store_true", help="fail where anything would be repaired or left out")
    parser.add_argument("--no-cache", action="store_true", help="read all labels again")
    run_script(main, parser)
