"""Results files without a model: judged, compared, or checked for a test server.

python -m engine.evaluation results.json [more.json ...] annotations.json|DATA [--protocol coco ...]
python -m engine.evaluation --check FILE [IMAGE_INFO]
"""

import argparse

from utils.cli import given
from utils.errors import UserError, run_script
from utils.parser import Parser


def build_parser() -> Parser:
    from engine.evaluation.comparison.command import JudgeConfig

    parser = JudgeConfig.parser(__doc__)
    parser.prog = "python -m engine.evaluation"
    parser.add_argument("files", nargs="*", help="COCO results files, and last the annotation file, or a data set "
                        "(name in cfg/data or a YAML)")
    parser.group("instead").add_argument("--check", nargs="+", metavar="FILE", help="check a results file for a test "
                                         "server; second: its image-info file or the images' folder")
    return parser


def main(args: argparse.Namespace) -> None:
    """Judge results files, or check one."""
    if args.check is None:
        from engine.evaluation.comparison.command import JudgeConfig, judge_files

        judge_files(JudgeConfig.from_args(args).check())
        return
    if len(args.check) > 2:
        raise UserError(f"--check: {len(args.check)} files; give the results file and the image-info file alone",
                        "too-many-files")
    others = sorted(set(given(args)) - {"check", "debug"} - ({"files"} if not args.files else set()))
    if others:
        raise UserError(f"--check: checks one file and judges nothing; drop {', '.join(others)}", "key-conflict")
    from engine.evaluation.submission.check import print_check

    print_check(*args.check)


if __name__ == "__main__":
    run_script(main, build_parser())
