"""What a check of a results file has found."""

from dataclasses import dataclass, field
from pathlib import Path


class Refused(Exception):
    """A results file that cannot be read any further. code: as of `Problem`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Problem:
    """One kind of fault. text: the first place that has it; count: how many have it."""

    code: str
    text: str
    count: int = 1


@dataclass
class Report:
    """The result of a check. facts: what was looked at; notes: what was not, or should be known; problems: faults for
    which the file should not be uploaded, one of each kind."""

    path: Path
    title: str
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def codes(self) -> list[str]:
        """The kinds of the problems."""
        return [problem.code for problem in self.problems]

    def add(self, code: str, text: str, count: int = 1) -> None:
        """Count a problem; the text of the first of its kind is kept."""
        known = next((problem for problem in self.problems if problem.code == code), None)
        if known is None:
            self.problems.append(Problem(code, text, count))
        else:
            known.count += count

    def format(self) -> str:
        """The report as text, problems last."""
        lines = [f"{self.path}: {self.title}", *(f"  {fact}" for fact in self.facts),
                 *(f"  note: {note}" for note in self.notes)]
        lines += [f"  problem [{p.code}]: {p.text}" + f" ({p.count:,} such)" * (p.count > 1) for p in self.problems]
        count = len(self.problems)
        verdict = f"do not upload it: {count} kind{'s' * (count > 1)} of problem" if count else "no problem found"
        return "\n".join([*lines, f"  {verdict}"])


def megabytes(size: int) -> str:
    """Bytes as text, in MB of 10^6."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
