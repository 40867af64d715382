"""Which run is whose: a trial of an Optuna study for each claim, so that machines that share a storage share the runs.

A claim is a trial that is created in the state RUNNING with the run's name on it; databases number trials in one order,
so of several claims for a run the one of the lowest number stands, and the others are withdrawn. A claim is void where
its process on this machine has gone, or where another machine has given no sign of life for `PATIENCE` seconds (clocks
of the machines must agree within minutes); the run is then free again.
"""

import os
import socket
import time
import uuid
from typing import Any

from engine.training.study import load_optuna, open_study
from utils.errors import UserError
from utils.signals import lives

PATIENCE, BEAT = 600.0, 60.0  # seconds until a silent machine counts as gone; between two signs of life


class Store:
    """The study in a storage. now: seconds since 1970, the same clock on all machines."""

    def __init__(self, storage: str, study: str, now=time.time) -> None:
        self.optuna = load_optuna("--storage")
        self.study = open_study(self.optuna, storage, study)
        self.token, self.host, self.now, self.beaten = uuid.uuid4().hex, socket.gethostname(), now, now()
        self.claims: dict[str, Any] = {}  # key of a run -> its trial, of this process

    def results(self) -> dict[str, dict[str, Any]]:
        """What is stored of each run that is done."""
        return {trial.user_attrs["run"]: trial.user_attrs["result"] for trial in reversed(self._trials())
                if trial.state.name == "COMPLETE"}

    def errors(self) -> dict[str, str]:
        """Why runs failed, the last time of each."""
        return {trial.user_attrs["run"]: trial.user_attrs["error"] for trial in self._trials()
                if trial.state.name == "FAIL" and trial.user_attrs.get("error")}

    def holders(self) -> dict[str, str]:
        """Which other process has a run under way."""
        return {trial.user_attrs["run"]: f"{trial.user_attrs['host']} (process {trial.user_attrs['pid']})"
                for trial in self._trials() if self._holds(trial) and trial.user_attrs["token"] != self.token}

    def claim(self, key: str) -> bool:
        """Take a run, unless it is done or another process has it."""
        if any(self._stands(trial, key) for trial in self._trials()):
            return False
        self.study.add_trial(self.optuna.trial.create_trial(
            state=self.optuna.trial.TrialState.RUNNING,
            user_attrs={"run": key, "token": self.token, "host": self.host, "pid": os.getpid(), "beat": self.now()}))
        standing = [trial for trial in self._trials() if self._stands(trial, key)]
        own = next(trial for trial in standing if trial.user_attrs["token"] == self.token)
        self.claims[key] = self.optuna.trial.Trial(self.study, own._trial_id)
        if standing[0].number != own.number:
            self.release(key)
            return False
        return True

    def beat(self) -> None:
        """A sign of life for all runs that this process has, where one is due."""
        if self.now() - self.beaten < BEAT:
            return
        self.beaten = self.now()
        try:
            for trial in self.claims.values():
                trial.set_user_attr("beat", self.now())
        except Exception as error:  # drivers' errors have no common base; training goes on without the database
            print(f"the storage cannot be reached ({type(error).__name__}); trying again in {BEAT:.0f} s")

    def complete(self, key: str, value: float, result: dict[str, Any]) -> None:
        """Store that a run that was claimed is done. value: its first number."""
        trial = self.claims.pop(key)
        trial.set_user_attr("result", result)
        self.study.tell(trial.number, value)

    def release(self, key: str, error: str = "") -> None:
        """Give a claim back. error: why the run failed, '' where it only stopped."""
        trial = self.claims.pop(key)
        if error:
            trial.set_user_attr("error", error)
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def same(self, name: str, value: Any, cure: str) -> None:
        """Note a fact of the study, which every command must share. Raises `UserError` where it differs."""
        known = self.study.user_attrs.get(name)
        if known is None:
            self.study.set_user_attr(name, value)
        elif known != value:
            raise UserError(f"{name} of this ablation were {known}, and are {value} now; {cure}", "flag-conflict")

    def _trials(self) -> list[Any]:
        """Those of this program, by number."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if "run" in trial.user_attrs]

    def _stands(self, trial: Any, key: str) -> bool:
        return trial.user_attrs["run"] == key and (trial.state.name == "COMPLETE" or self._holds(trial))

    def _holds(self, trial: Any) -> bool:
        """Whether a claim is that of a process that lives."""
        facts = trial.user_attrs
        if trial.state.name != "RUNNING":
            return False
        if facts["token"] == self.token:
            return True
        return self.now() - facts["beat"] < PATIENCE and (facts["host"] != self.host or lives(facts["pid"]))
