"""The Markdown page of all measurements so far, from the JSON file beside it."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from benchmarks.gpu.plan import SECTIONS
from benchmarks.record import Piece, Section, table

TITLES = {"correct": "Is it right on this device?", "speed": "How fast is training, and what limits it?",
          "latency": "How long does inference take?", "necks": "Does the neck help small objects?"}
NUMBERS = ("AP", "AP50", "AP_S", "AP_M", "AP_L")
Pieces = Mapping[str, Piece]


def write_page(record: Section, planned: Mapping[str, Sequence[str]]) -> str:
    """The whole page. planned: the keys of each section."""
    text = ["# A quarter of an hour on a GPU", "",
            f"Made by `python -m benchmarks.gpu` from `{record.path.name}` beside it, which holds every number and the "
            "exact commands.", "", *_machines(record)]
    text += ["", "## In short", "", *summary(record)]
    for section, keys in planned.items():
        own = {key: record.pieces[key] for key in keys if key in record.pieces}
        done = {key: piece for key, piece in own.items() if not piece.get("unfinished")}
        text += ["", f"## {TITLES[section]}", "", f"{len(done)} of {len(keys)} pieces.", ""]
        text += SECTION_TEXTS[section](own) if own else []
        failed = [[key, piece["error"].replace("|", "/")] for key, piece in own.items() if "error" in piece]
        text += ["", *table(["failed", "why"], failed)] if failed else []
    return "\n".join(text) + "\n"


def _machines(record: Section) -> list[str]:
    pieces, lines = list(record.pieces.values()), []
    for device in dict.fromkeys(piece["device"] for piece in pieces):
        on = [piece for piece in pieces if piece["device"] == device]
        days = sorted({piece["date"][:10] for piece in on})
        versions = " / ".join(f"{name} {version}" for name, version in on[-1]["versions"].items())
        lines.append(f"- **{device}**, {on[-1]['cores']} cores, {' to '.join(dict.fromkeys((days[0], days[-1])))}: "
                     f"{len(on)} pieces; {versions}")
    if any(piece["device"].startswith("cpu") for piece in pieces):
        lines.append("- **Rehearsed on a CPU: this says nothing about a GPU.**")
    if record.small:
        lines.append("- Made with `--small`: tiny sizes that only show that the program runs.")
    return lines


def rows_of(pieces: Pieces, start: str = "") -> list[Piece]:
    return [row for key, piece in pieces.items() if key.startswith(start) for row in piece.get("rows", [])]


def summary(record: Section) -> list[str]:
    """A table short enough for the README."""
    pieces = record.pieces
    checks = [row for row in rows_of(pieces) if "ok" in row]
    lines = [["checks that hold", f"{sum(row['ok'] for row in checks)} of {len(checks)}"]]
    steps = [row for row in rows_of(pieces, "train step ") if "ms" in row]
    lines += [[f"training step, {row['variant']}, batch {row['batch']}, {row['imgsz']} px{_compiled(row)}",
               f"{row['images_per_s']:.0f} images/s, {row['memory_gb']:.1f} GiB"] for row in steps]
    for key, piece in pieces.items():
        if key.startswith("train.py "):
            lines += [[f"{key}: {row['name']}", _end_to_end(row)] for row in piece.get("rows", []) if "ms" in row]
    for row in rows_of(pieces, "latency "):
        if row.get("batch") == 1 and row.get("type") in ("fp16", "fp32") and row.get("mode") != "plain":
            lines.append([f"inference, {row['variant']}, {row['type']}, one image, {row['mode']}",
                          f"{row['ms']:.2f} ms"])
    lines += [[f"{data}, {model}, {len(runs)} seeds", f"AP {_mean(runs, 'AP')}, AP_S {_mean(runs, 'AP_S')}"]
              for (data, model), runs in _groups(pieces).items()]
    return table(["what", "seen"], lines)


def _end_to_end(row: Piece) -> str:
    seen = f"{row['images_per_s']:.0f} images/s, {row['memory_gb']:.1f} GiB"
    return f"{seen}, {100 * row['waited_ms'] / row['ms']:.0f} % of it waiting for data" if "waited_ms" in row else seen


def _compiled(row: Piece) -> str:
    return ", compiled" if row.get("compiled") else ""


def _correct(pieces: Pieces) -> list[str]:
    """A line for each piece with the check that came nearest to its limit; all that does not hold in full."""
    lines, wrong = [], []
    for key, piece in pieces.items():
        checks = [row for row in piece["rows"] if "ok" in row] if "rows" in piece else []
        measured = [row for row in checks if row["limit"]]
        worst = max(measured, key=lambda row: row["error"] / row["limit"], default=None)
        tightest = f"{worst['what']}: {worst['error']:.1e} of {worst['limit']:.1e}" if worst else ""
        notes = "; ".join(dict.fromkeys(row["note"] for row in checks if row["note"]))
        lines.append([key, f"{sum(row['ok'] for row in checks)} of {len(checks)}", tightest, notes[:200]])
        wrong += [[key, row["what"], *("" if row[k] is None else f"{row[k]:.2e}" for k in ("error", "limit")),
                   row["note"]] for row in checks if not row["ok"]]
    text = table(["piece", "checks that hold", "nearest to its limit", "notes"], lines)
    if wrong:
        text += ["", "**Does not hold:**", "", *table(["piece", "compared", "error", "allowed", "note"], wrong)]
    return text


def card_of(pieces: Pieces) -> tuple[float, float, float] | None:
    """FLOP/s in bf16, bytes/s and seconds per request that the card reached; None where that was not measured."""
    rows = rows_of(pieces, "roofline")
    flops = next((row["tflops"] * 1e12 for row in rows if "bf16" in row["what"]), None)
    moved = next((row["gb_per_s"] * 1e9 for row in rows if "gb_per_s" in row), None)
    asked = next((row["us"] / 1e6 for row in rows if "us" in row), None)
    return (flops, moved, asked) if flops and moved and asked else None


def limits_of(row: Piece, card: tuple[float, float, float]) -> dict[str, float]:
    """ms that a step needs at least: for its arithmetic, for its memory traffic, and to be asked for."""
    return {"arithmetic": 1e3 * row["flops"] / card[0], "memory": 1e6 * 1e6 * row["traffic_gb"] / card[1],
            "requests": row["floor_ms"]}


def _speed(pieces: Pieces) -> list[str]:
    card = card_of(pieces)
    figures = [[row["what"], next(f"{row[k]:.1f} {unit}" for k, unit in
                                  (("tflops", "TFLOP/s"), ("gb_per_s", "GB/s"), ("us", "us")) if k in row)]
               for row in rows_of(pieces, "roofline")]
    text = table(["this card, measured in the same run", ""], figures) if figures else []
    lines = []
    for row in rows_of(pieces, "train step "):
        if "ms" not in row:
            lines.append([row["variant"], str(row["batch"]), row["what"], *[""] * 7])
            continue
        cells = [""] * 4
        if card and "flops" in row:
            least = limits_of(row, card)
            most = max(least, key=least.get)
            cells = [*(f"{value:.1f}" for value in least.values()), f"{most}, {100 * least[most] / row['ms']:.0f} %"]
        lines.append([row["variant"] + _compiled(row), str(row["batch"]), f"{row['images_per_s']:.0f}",
                      f"{row['ms']:.1f}", f"{row['fastest_ms']:.1f} to {row['slowest_ms']:.1f}",
                      f"{row['memory_gb']:.2f}", *cells])
    if lines:
        text += ["", "A step alone (forward, loss, backward, optimiser, averaged weights) on a batch that lies on the "
                 "device. Least ms: FLOPs by the card's bf16 matrix products; bytes that its operations read and write "
                 "by the card's copies (what caches keep counts too, so a step may need less); the same step on two "
                 "tiny images, which is the asking. The largest of them limits the step; beside it its share of the "
                 "measured time.", "",
                 *table(["model", "batch", "images/s", "ms", "span", "peak GiB", "arithmetic, ms", "memory, ms",
                         "requests, ms", "limited by"], lines)]
    lines = [[key.removeprefix("train.py "), row["name"], row.get("precision", ""), _end_to_end(row) if "ms" in row
              else f"did not run: {row.get('failed', '')}".replace("|", "/")]
             for key, piece in pieces.items() if key.startswith("train.py ") for row in piece.get("rows", [])]
    return text + (["", "The loop of train.py from end to end: `workers` decodes and draws in processes, `gpu` is "
                    "`--cache gpu`; medians of rounds in turn, each program as its users start it.", "",
                    *table(["model, batch, data", "program", "computes in", "seen"], lines)] if lines else [])


def _latency(pieces: Pieces) -> list[str]:
    rows, text = [row for row in rows_of(pieces, "latency ") if "type" in row], []
    by = {(row["variant"], row["type"], row["batch"], row["mode"]): row for row in rows}
    lines = []
    for variant, kind, batch in dict.fromkeys(key[:3] for key in by):
        modes = [by.get((variant, kind, batch, mode)) for mode in ("plain", "compiled", "CUDA graph")]
        best = min((row["ms"] for row in modes if row), default=0.0)
        lines.append([variant, kind, str(batch), *(f"{row['ms']:.2f}" if row else "" for row in modes),
                      f"{1e3 * batch / best:.0f}" if best else ""])
    if lines:
        text += ["ms of a call until its boxes are decoded, fused, images resident, suppression apart.", "",
                 *table(["model", "type", "batch", "plain", "compiled", "CUDA graph", "images/s, best"], lines)]
    extra = _extra(by)
    if extra:
        text += ["", "What a neck adds to its base, beside its share of FLOPs. Published for comparison: YOLOv5s 0.9 "
                 "ms, with ssFPN 1.3 ms an image on an A100 (44 % more).", "",
                 *table(["model", "type", "batch", "by", "more ms", "more time", "more FLOPs"], extra)]
    lines = [[row["variant"], str(row["batch"]), str(row["candidates"]), f"{row['kept']:.0f}", f"{row['ms']:.2f}",
              f"{row['ms'] / row['batch']:.3f}"] for row in rows_of(pieces, "latency nms")]
    return text + (["", *table(["suppression", "batch", "candidates an image", "kept an image", "ms", "ms an image"],
                               lines)] if lines else [])


def _extra(by: Mapping[tuple, Piece]) -> list[list[str]]:
    lines = []
    for (variant, kind, batch, mode), row in by.items():
        base = by.get((variant.partition(" --neck ")[0], kind, batch, mode))
        if " --neck " in variant and base and "flops" in row and mode != "compiled":
            lines.append([variant, kind, str(batch), mode, f"{row['ms'] - base['ms']:+.2f}",
                          f"{100 * (row['ms'] / base['ms'] - 1):+.0f} %",
                          f"{100 * (row['flops'] / base['flops'] - 1):+.0f} %"])
    return lines


def _groups(pieces: Pieces) -> dict[tuple[str, str], list[Piece]]:
    groups: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces.values():
        if "test" in piece:
            groups.setdefault((piece["data"], piece["model"]), []).append(piece)
    return groups


def _mean(runs: Sequence[Piece], number: str) -> str:
    values = [100 * run["test"][number] for run in runs]
    if min(values) < 0:
        return "-"
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _necks(pieces: Pieces) -> list[str]:
    text: list[str] = []
    groups = _groups(pieces)
    for data in dict.fromkeys(data for data, _ in groups):
        own = {model: runs for (where, model), runs in groups.items() if where == data}
        first = next(iter(own.values()))[0]
        text += [f"**{data}**: {first['epochs']} epochs at {first['imgsz']} px, batch {first['batch']}, from scratch; "
                 f"best.pt by the val split, COCO protocol on the {first['split']} split, in percent, mean and "
                 f"standard deviation over seeds; {first['jobs']} trainings side by side.", "",
                 *table(["model", "seeds", *NUMBERS, "val AP", "images/s of one", "peak GiB"],
                        [[model, ", ".join(str(run["seed"]) for run in runs), *(_mean(runs, n) for n in NUMBERS),
                          f"{100 * fmean(run['val']['AP'] for run in runs):.1f}",
                          f"{fmean(run['images_per_s'] for run in runs):.0f}",
                          f"{max(run['memory_gb'] for run in runs):.1f}"] for model, runs in own.items()]), ""]
    return text


SECTION_TEXTS = {"correct": _correct, "speed": _speed, "latency": _latency, "necks": _necks}
assert SECTION_TEXTS.keys() == SECTIONS.keys()
