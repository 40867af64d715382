"""Free memory of this machine and this container."""

import os
from pathlib import Path

# (limit, used, statistics, key of reclaimable file pages) of cgroups version 2 and 1
CGROUPS = (("memory.max", "memory.current", "memory.stat", "inactive_file"),
           ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
            "total_inactive_file"))


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that can be allocated without swapping or being killed; infinite where the system does not tell."""
    lines = _read(proc / "meminfo").splitlines()
    free = next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:")), float("inf"))
    for limit, used, statistics, key in CGROUPS:
        ceiling, taken = _read(cgroup / limit).strip(), _read(cgroup / used).strip()
        if ceiling.isdigit() and taken.isdigit():
            rows = dict(line.split()[:2] for line in _read(cgroup / statistics).splitlines())
            free = min(free, max(int(ceiling) - int(taken) + int(rows.get(key, 0)), 0))
    return free


def processes_here() -> int:
    """Number of processes that torchrun started on this machine, which share its memory."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(int(count), 1) if count.isdigit() else 1


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
