"""The command and the commit that a run notes down."""

import subprocess
from dataclasses import dataclass

from utils.options import Options, option
from utils.reporting import run_record
from utils.reporting.run_record import given_command, revision


@dataclass(frozen=True)
class Config(Options):
    data: str = option("", "data")
    imgsz: tuple[int, ...] = option((64,), "size", nargs="+", type=int)
    rect: bool = option(False, "rect")
    storage: str = option("", "database")


def test_a_command_has_what_was_given_and_no_password():
    args = Config.parser("A script.").parse_args(["--data", "my set.yaml", "--imgsz", "64", "96", "--rect", "--storage",
                                                  "postgresql://me:secret@host/db"])
    said = given_command("train", Config.from_args(args))
    assert said == "python train.py --data 'my set.yaml' --imgsz 64 96 --rect --storage ..." and "secret" not in said
    assert given_command("val", Config()) == "python val.py"


def test_a_commit_is_marked_where_files_differ_and_absent_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    assert revision() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = revision()
    (tmp_path / "a.py").write_text("2")
    assert len(clean) == 12 and revision() == clean + "+"
    (tmp_path / ".git/HEAD").write_text("broken")
    assert revision() == ""
