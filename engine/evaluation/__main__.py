"""Results files without a model: `python -m engine.evaluation --check FILE [IMAGE_INFO]`."""

import argparse

from engine.evaluation.submission.check import print_check
from utils.cli import Parser
from utils.errors import UserError, run_script


def build_parser() -> Parser:
    parser = Parser(prog="python -m engine.evaluation", description=__doc__)
    parser.add_argument("--check", nargs="+", required=True, metavar=("FILE", "IMAGE_INFO"),
                        help="check a results file for a test server; the image-info file, or the folder of images, "
                        "tells which images there are")
    return parser


def main(args: argparse.Namespace) -> None:
    """Check one results file."""
    if len(args.check) > 2:
        raise UserError(f"--check: {len(args.check)} files; give the results file and the image-info file alone",
                        "too-many-files")
    print_check(*args.check)


if __name__ == "__main__":
    run_script(main, build_parser())
