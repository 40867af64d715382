"""The page docs/resume.md, made from what `benchmarks.resume` measured."""

from collections.abc import Mapping

from benchmarks.record import Piece, table
from benchmarks.steps.interrupt import CASES


def write_page(pieces: Mapping[str, Piece]) -> str:
    """The whole page as Markdown; keys are `case moment`."""
    text = [INTRODUCTION]
    rows = []
    for case, act in CASES.items():
        done = [piece for key, piece in pieces.items() if key.split()[0] == case]
        if done:
            equal = sum(piece["ok"] and not piece.get("skipped") for piece in done)
            counted = sum(not piece.get("skipped") for piece in done)
            what = " ".join((act.__doc__ or "").split())
            rows.append([f"`{case}`", what, f"{equal} of {counted}" if counted else "not possible there"])
    text += table(["case", "what happens", "ended with the same weights"], rows)
    text += ["", "## Every moment", ""]
    lines = []
    for key, piece in pieces.items():
        equal = ["", "", ""] if piece.get("skipped") else [
            "yes" if piece.get(what) else "**no**" for what in ("last.pt", "best.pt", "results.csv")]
        note = "" if piece["ok"] else f" **{piece['note']}**"
        lines.append([key, piece["interrupted"] + note, piece["resumed"], *equal])
    text += table(["case", "interrupted", "went on", "last.pt equal", "best.pt equal", "results.csv equal"], lines)
    for command, stamp in {piece["command"]: piece for piece in pieces.values()}.items():
        versions = " / ".join(f"{name} {version}" for name, version in stamp["versions"].items())
        text += ["", f"`{command}`, {stamp['date'][:10]}; {versions}"]
    return "\n".join(text) + "\n"


INTRODUCTION = """\
# Stopping and going on

A training that is interrupted and resumed ends with the very weights of one that was left alone, bit for bit on a CPU.

```bash
python train.py --resume runs/train/exp    # the run in this folder
python train.py --resume                   # the newest run that has not ended
```

- **Ctrl-C and SIGTERM** (what schedulers send before they kill) finish the step under way, save, say how to go on and
  end with exit code 130 or 143. The run goes on with the very next batch. A second signal stops at once.
- **`--save-every-minutes M`** saves within long epochs too; without it, runs that are killed go on after their last
  whole epoch.
- A checkpoint is written beside the old one and takes its place only when it is whole and on the disk; the one before
  stays as `weights/previous.pt` until the run has ended. **A full disk or a kill while saving** leaves one
  of the two; where `last.pt` is damaged, `--resume` says so and takes `previous.pt`.
- Device, `--workers`, `--cache` (but not from or to `gpu`, which draws other pixels), `--amp`, `--epochs`,
  `--patience`, `--save-every-minutes`, `--save-period`, `--skip-bad-batches`, `--max-pixels`, `--noplots`,
  `--logger` and `--compile` may be others when a run goes on: what is given counts, be it the default. Everything
  else is as the run had it; the first command may be repeated with `--resume`. Bit-exactness holds for the same
  device and number of threads.
- **More epochs**: `--resume runs/train/exp --epochs 200` before the run has ended; from there on the learning rate
  follows the schedule of 200. A run that has ended has no state to go on from; the message tells the command that
  trains on from its weights.
- **Data that moved**: `--resume runs/train/exp --data new.yaml`. **Data that changed**, images (names and bytes) or
  labels, are told and refused; `--allow-data-change` goes on with them, at the beginning of the epoch.

## The matrix

Made by `python -m benchmarks.resume`: a small training (`yolov8n`, 64 px, 4 epochs of 6 batches, mosaic closed in the
last) is interrupted at random moments, resumed with `train.py --resume FOLDER` until it ends, and compared with an
uninterrupted one: every tensor of last.pt and best.pt, and results.csv without time, images/s and memory.
"""
