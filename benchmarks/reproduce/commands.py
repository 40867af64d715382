"""The commands that run a row, as lists of words, and what they need first."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.record import PROJECT, write_whole
from benchmarks.reproduce.rows import Row, words_of
from data.data_yaml import read_source
from utils.checkpoint import load_checkpoint
from utils.config import find_config, read_yaml
from utils.errors import UserError

TEST_DEV, VOC_SERVER = "COCO test-dev", "VOC 2012"
SERVERS = {TEST_DEV: "test", VOC_SERVER: "test"}  # who alone can judge a row -> the split whose labels they keep


@dataclass(frozen=True)
class Place:
    """Where rows are run. work: folder of trainings; data_root: folder of the data sets, None for those of cfg/data;
    weights_root: folder of the files that trainings start from; device: as of `--device`, '' for every GPU."""

    work: Path
    data_root: Path | None = None
    weights_root: Path = Path("weights")
    device: str = ""

    def training(self, row: Row, number: int) -> Path:
        """The folder of a row's training, counted from 0."""
        return self.work / row.key / f"train{number + 1}"

    def evaluation(self, row: Row) -> Path:
        """The folder of its evaluation, or of its submission."""
        return self.work / row.key / row.name

    def data(self, row: Row) -> str:
        """The data of a row: its name in cfg/data, or with a data root that file with another path, in `work`."""
        if self.data_root is None:
            return row.data
        return str(self.work / "data" / f"{row.data}.yaml")

    def write_data(self, row: Row) -> None:
        """Write the file that `data` names, where it is one of ours."""
        if self.data_root is not None:
            content = read_yaml(find_config(row.data, "data"))
            content["path"] = str(self.data_root.resolve() / Path(content["path"]).name)
            write_whole(Path(self.data(row)), yaml.safe_dump(content, sort_keys=False))

    @property
    def devices(self) -> list[str]:
        """The names of the GPUs to train on; [] for the CPU."""
        if self.device == "cpu":
            return []
        return self.device.split(",") if self.device else [str(i) for i in range(torch.cuda.device_count())]


def processes_for(row: Row, place: Place) -> int:
    """Processes of its trainings: one per named GPU; of all GPUs the most, up to the published number, that share its
    batches evenly. Raises `UserError` where the named ones do not."""
    batches = [stage["batch_size"] for stage in row.stages]
    if place.device:
        count = max(1, len(place.devices))
        uneven = [batch for batch in batches if batch % count]
        if uneven:
            raise UserError(f"--device {place.device}: batches of {uneven[0]} do not share evenly among {count} GPUs; "
                            f"{row.name} was published with {row.processes}", "bad-value")
        return count
    most = max(1, min(row.processes, len(place.devices)))
    return next(count for count in range(most, 0, -1) if not any(batch % count for batch in batches))


def obstacles(row: Row, place: Place) -> list[str]:
    """A sentence for each thing that is missing before the row can be run, [] where nothing is."""
    found = []
    place.write_data(row)
    for split in dict.fromkeys(("train", "val", SERVERS.get(row.server, row.evaluate.get("task", "val")))):
        try:
            read_source(place.data(row), split)
        except UserError as error:
            text = str(error).replace(f"{PROJECT}/", "")
            found.append(f"data: {text}; or name the folder that holds it with --data-root")
            break
    for flag, need in row.needs.items():
        if not (place.weights_root / need["file"]).is_file():
            found.append(f"--{flag}: {need['file']} is not in {place.weights_root}; get it from {need['from']}, or "
                         "name its folder with --weights-root")
    if not place.devices and place.device != "cpu":
        found.append("GPU: none is visible, and on a CPU this training takes months; --device cpu starts it all the "
                     "same")
    return found


def train_command(row: Row, number: int, place: Place) -> list[str] | None:
    """What starts a training of a row or goes on with it; None where it has ended."""
    folder, processes = place.training(row, number), processes_for(row, place)
    here = [*(["--device", place.device] if place.device else [])]
    start = [*python_command(processes), "train.py"]
    last = folder / "weights" / "last.pt"
    if last.is_file() or last.with_name("previous.pt").is_file():
        return None if _has_ended(last) else [*start, "--resume", str(folder), *here]
    flags: dict[str, Any] = {**row.stages[number], "data": place.data(row)}
    if number:
        flags["weights"] = str(place.training(row, number - 1) / "weights" / "last.pt")
    else:
        flags |= {flag: str((place.weights_root / need["file"]).resolve()) for flag, need in row.needs.items()}
    own = {"project": str(folder.parent), "name": folder.name, "exist_ok": True, "noplots": True}
    return [*start, *words_of({**flags, **own}), *here]


def val_command(row: Row, place: Place) -> list[str]:
    """What evaluates a row's last training, or writes the file for its server."""
    folder = place.evaluation(row)
    weights = place.training(row, len(row.stages) - 1) / "weights" / f"{row.checkpoint}.pt"
    own: dict[str, Any] = {"project": str(folder.parent), "noplots": True}
    if row.server == TEST_DEV:
        own |= {"submit": folder.name}
    else:
        own |= {"name": folder.name, "exist_ok": True, "save_voc" if row.server == VOC_SERVER else "save_json": True}
    device = place.devices[0] if place.devices else "cpu"
    given = ["--device", device] if place.device else []
    flags = {"data": place.data(row), **row.evaluate, **own}
    return [*python_command(1), "val.py", "--weights", str(weights), *words_of(flags), *given]


def shown_command(words: list[str]) -> str:
    """A command as a reader types it in the project's root."""
    return shlex.join(word.replace(f"{PROJECT}/", "") if word != sys.executable else "python" for word in words)


def run_command(words: list[str]) -> None:
    """Run a command to its end, its output on ours. Raises `UserError` where it fails; where the user interrupts, it
    is waited for, since it saves its state."""
    print(f"$ {shown_command(words)}", flush=True)
    process = subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.DEVNULL)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if code:
        script = next(word for word in words if word.endswith(".py"))
        raise UserError(f"{script} ended with code {code}; what it said stands above. The same command goes on where "
                        "it stopped", "command-failed")


def python_command(processes: int) -> list[str]:
    """Python, or torchrun for several processes."""
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def _has_ended(last: Path) -> bool:
    """Whether a training has ended: its last.pt then holds no state. One that cannot be read is resumed, from the
    checkpoint before it."""
    try:
        return "train" not in load_checkpoint(last)
    except UserError:
        return False
