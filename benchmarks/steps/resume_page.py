"""The page docs/resume.md, from the results of `benchmarks.resume`."""

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
# Interrupting and resuming

A training that is interrupted and resumed ends with the same weights as an uninterrupted one, bit for bit on a CPU.

```bash
python train.py --resume runs/train/exp    # the run in this folder
python train.py --resume                   # the newest unfinished run
```

- **Ctrl-C and SIGTERM** (which schedulers send before they kill) finish the current step, save, print the command to
  resume and exit with code 130 or 143. The resumed run continues with the next batch. A second signal stops
  immediately.
- **`--save-every-minutes M`** saves within long epochs too; without it, a killed run resumes after its last complete
  epoch.
- A checkpoint is written to a temporary file and replaces the old one when it is complete and on the disk; the
  previous one is kept as `weights/previous.pt` until the run ends. **A full disk or a kill while saving** leaves one
  of the two; if `last.pt` is damaged, `--resume` reports it and uses `previous.pt`.
- Device, `--workers`, `--cache` (but not from or to `gpu`, whose pixels differ), `--amp`, `--epochs`,
  `--patience`, `--save-every-minutes`, `--save-period`, `--skip-bad-batches`, `--max-pixels`, `--noplots`,
  `--logger` and `--compile` may change when a run resumes: a given value counts, even if it is the default. All other
  settings are those of the run; the first command may be repeated with `--resume`. Bit-exactness holds for the same
  device and number of threads.
- **More epochs**: `--resume runs/train/exp --epochs 200` before the run has ended; from there on the learning rate
  follows the schedule of 200 epochs. A finished run has no state to resume from; the message names the command that
  continues from its weights.
- **Data that moved**: `--resume runs/train/exp --data new.yaml`. **Data that changed** (names and bytes of images, or
  labels) are an error; `--allow-data-change` accepts them and restarts the epoch.

## The matrix

Made by `python -m benchmarks.resume`: a small training (`yolov8n`, 64 px, 4 epochs of 6 batches, mosaic closed in the
last) is interrupted at random moments, resumed with `train.py --resume FOLDER` until it ends, and compared with an
uninterrupted one: every tensor of last.pt and best.pt, and results.csv without time, images/s and memory.
"""
