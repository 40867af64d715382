"""The table of `benchmarks.train_step`, from its JSON file."""

from collections.abc import Sequence
from typing import Any

from benchmarks.record import Piece, Section, table

EQUAL_THREADS = "as many threads as ours"
HEAD = ["program", "batches from", "computes in", "threads", "optimiser", "images/s", "ms a step", "span over rounds",
        "CPU-s a step", "peak GiB", "first step, s", "speed", "at equal threads", "by CPU time", "memory"]
SOURCES = {"resident": "one batch, resident", "gpu": "--cache gpu", "workers": "loader processes"}


def write_table(section: Section, planned: Sequence[str]) -> str:
    """The whole report as Markdown; ratios are to the peer in the same piece, so above 1 is faster than the peer."""
    text = ["# A training step beside a peer's", "",
            f"Made by `python -m benchmarks.train_step` from `{section.path.name}` beside it, which holds the exact "
            "commands and every number. Forward, loss, backward, optimiser and averaged weights, by the very loop of "
            "train.py and by the peer's own trainer, each as it is by default on this device; medians over rounds in "
            "turn. `speed` and `by CPU time`: how many times faster than the peer as it is; `at equal threads`: than "
            "the peer with as many threads as ours (on a CPU its trainer leaves one core free); `memory`: which share "
            "of the peer's peak (of the allocator on a GPU, of the process on a CPU).", ""]
    if section.small:
        text += ["**Made with `--small`: tiny sizes that only show that the program runs.**", ""]
    text += [f"{len(section.pieces)} of {len(planned)} pieces.", ""]
    for key in [*[key for key in planned if key in section.pieces], *[k for k in section.pieces if k not in planned]]:
        piece = section.pieces[key]
        versions = " / ".join(f"{name} {version}" for name, version in piece["versions"].items())
        text += [f"## {piece['model']}, batch {piece['batch']}, {piece['imgsz']} px: {SOURCES[piece['source']]}", "",
                 f"{piece['device']}, {piece['threads']} threads"
                 + (f", {piece['workers']} loader processes" if piece["workers"] else "")
                 + f"; {piece['date'][:10]}; {versions}", "", *table(HEAD, rows_of(piece)), "",
                 f"`{piece['command']}`", ""]
    return "\n".join(text)


def rows_of(piece: Piece) -> list[list[str]]:
    """A line for each program, with its ratios to the peer where there is one."""
    done = [row for row in piece["rows"] if "failed" not in row]
    peers = [row for row in done if row["program"].startswith("ultralytics")]
    lines = [[f"{row['name']}: did not run", *[""] * (len(HEAD) - 1)] for row in piece["rows"] if row not in done]
    for row in done:
        name = row["name"].replace("ultralytics", row["program"]) if row in peers else row["name"]
        lines.append([name, SOURCES[row["source"]], f"{row['precision']}, {row['layout']}", str(row["threads"]),
                      row["optimizer"], f"{row['images_per_s']:.1f}", f"{row['ms']:.0f}",
                      f"{row['fastest_ms']:.0f} to {row['slowest_ms']:.0f}", f"{row['cpu_s']:.2f}",
                      f"{row['memory_gb']:.2f}", f"{row['first_step_s']:.1f}", *ratios(row, peers)])
    return lines


def ratios(row: dict[str, Any], peers: Sequence[dict[str, Any]]) -> list[str]:
    """Times faster than the peer as it is, than the peer with as many threads, by CPU time; share of its memory."""
    if not peers or row in peers:
        return [""] * 4
    peer, equal = peers[0], next((p for p in peers if p["threads"] == row["threads"]), None)
    return [f"{peer['ms'] / row['ms']:.2f}x", f"{equal['ms'] / row['ms']:.2f}x" if equal else "",
            f"{peer['cpu_s'] / row['cpu_s']:.2f}x", f"{row['memory_gb'] / peer['memory_gb']:.2f}x"]
