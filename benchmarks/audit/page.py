"""The files of an audit: the page, its values as CSV and JSON, and the conclusions as text."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.audit.section import Section, Value
from utils.files import write_bytes

NAME = "audit"


def conclusions(sections: Sequence[Section]) -> list[str]:
    """Sentences in plain words, those of all sections."""
    return [f"- {said[0].upper()}{said[1:]}." for section in sections for said in section.said]


def write_files(folder: Path, head: Sequence[str], sections: Sequence[Section], made: dict[str, Any],
                picture: bool) -> None:
    """audit.md, audit.csv and audit.json in `folder`. head: what was audited; made: command, versions, date; picture:
    whether audit.png lies beside."""
    lines = [f"# Audit: {head[0]}", "", *(f"{line}." for line in head[1:]), "",
             f"`{made['command']}`, {made['date'][:10]}, PyTorch {made['versions']['torch']}, commit "
             f"{made['versions']['project']}.", "", *conclusions(sections), ""]
    if picture:
        lines += [f"![Panels of this page]({NAME}.png)", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *section.lines]
    write_bytes(folder / f"{NAME}.md", ("\n".join(lines).rstrip() + "\n").encode())
    values = [value for section in sections for value in section.values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([Value._fields, *(["" if cell is None else cell for cell in value] for value in values)])
    write_bytes(folder / f"{NAME}.csv", text.getvalue().encode())
    content = {"audit": list(head), "made": made, "conclusions": [said for part in sections for said in part.said],
               "values": [value._asdict() for value in values]}
    write_bytes(folder / f"{NAME}.json", json.dumps(content, indent=1).encode())
