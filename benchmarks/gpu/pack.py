"""Collect data for a machine without network: `python -m benchmarks.gpu.pack` fills `.carry/shared`.

The golden fixtures, and DeepPCB: all training and validation images and every fifth test image, bit-identical to the
published files.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks.gpu.goldens import LOSSES, MODELS, SIMILARITY
from benchmarks.record import NOTED, PROJECT, revision, write_whole
from utils.cli import positive
from utils.config import read_yaml
from utils.errors import UserError, run_script

DATA = "deeppcb"
EVERY = {"train": 1, "val": 1, "test": 5}  # of the images of a split, in the order of its file


def main(args: argparse.Namespace) -> None:
    """Fill the folder anew."""
    source, target = Path(args.shared), Path(args.out)
    for part in (source / "golden", source / "data" / DATA):
        if not part.is_dir():
            raise UserError(f"{part}: not there; name the folder that holds golden/ and data/{DATA}: --shared PATH",
                            code="missing-file")
    shutil.rmtree(target, ignore_errors=True)
    (target / "golden").mkdir(parents=True)
    for name in (*MODELS, *LOSSES, SIMILARITY):
        for suffix in ("json", "npz"):
            shutil.copyfile(source / "golden" / f"{name}.{suffix}", target / "golden" / f"{name}.{suffix}")
    counts = pack_data(source / "data" / DATA, target / "data" / DATA, {**EVERY, "test": args.every})
    write_whole(target.parent / NOTED.name, revision())
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {len(MODELS) + len(LOSSES) + 1} fixtures; {DATA}: "
          f"{', '.join(f'{count} {split}' for split, count in counts.items())} images; {total / 2**20:.1f} MiB")


def pack_data(source: Path, target: Path, every: dict[str, int]) -> dict[str, int]:
    """Copy a data set of COCO files, every so many images of a split, with the labels of these; how many there are."""
    counts = {}
    for split, step in every.items():
        place = read_yaml(source / f"{DATA}.yaml")[split]
        content = json.loads((source / place["annotations"]).read_text(encoding="utf-8"))
        images = content["images"][::step]
        kept = {image["id"] for image in images}
        content |= {"images": images, "annotations": [a for a in content["annotations"] if a["image_id"] in kept]}
        (target / place["images"]).mkdir(parents=True, exist_ok=True)
        for image in images:
            name = f"{place['images']}/{image['file_name']}"
            shutil.copyfile(source / name, target / name)
        (target / place["annotations"]).parent.mkdir(parents=True, exist_ok=True)
        (target / place["annotations"]).write_text(json.dumps(content), encoding="utf-8")
        counts[split] = len(images)
    for name in (f"{DATA}.yaml", "LICENSE", "README.md"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return counts


def build_parser() -> argparse.ArgumentParser:
    """The flags; the module's text is the help."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default=str(PROJECT.parent / "shared"), help=f"holds golden/ and data/{DATA}")
    parser.add_argument("--out", default=".carry/shared", help="folder that is filled, and emptied before")
    parser.add_argument("--every", type=positive, default=EVERY["test"], help="take every so many test images")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
