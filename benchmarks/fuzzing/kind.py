"""A kind of input, and the outcome of one input."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FAILURES = ("traceback", "hang", "bomb", "crash", "wrong")
FACTS = "facts.json"  # in a case's folder: what its attempt needs to know about it


class Wrong(Exception):
    """The program succeeded with a wrong result, or lost something silently."""


class Kind:
    """Inputs of one kind: how they are made, and what the program does with them.

    name: on the command line and in the report; weight: share of the cases; seconds, gigabytes: what one may take, of
    processor time and of memory beyond what the process held before; walls: seconds of the clock where much of the work
    is done by other processes, None for six times `seconds`.
    """

    name = ""
    weight = 1.0
    seconds = 10.0
    gigabytes = 1.5
    walls: float | None = None

    def ground(self, folder: Path) -> None:
        """Write what all cases start from; done once."""

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        """Write the input into an empty folder. It depends on `rng` and `ground` alone."""
        raise NotImplementedError

    def attempt(self, folder: Path) -> None:
        """Give the input to the program, as a script would; the working directory is `folder`.

        Raises `Wrong` where the program succeeds and its answer is wrong.
        """
        raise NotImplementedError


def write_facts(folder: Path, **facts: Any) -> None:
    """Note what `read_facts` of the attempt gives back."""
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """What `write_facts` noted; a case from a corpus has it too."""
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


@dataclass
class Outcome:
    """What became of one input. result: ok, refused, or one of FAILURES; place: the line of this project that a
    failure comes from; text: its message, the refusal's too; detail: the traceback."""

    kind: str
    seed: int
    number: int
    result: str
    place: str = ""
    text: str = ""
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    corpus: str = ""

    @property
    def failed(self) -> bool:
        return self.result in FAILURES

    @property
    def case(self) -> str:
        """How a case is named."""
        return f"{self.kind}-{self.seed}-{self.number}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)
