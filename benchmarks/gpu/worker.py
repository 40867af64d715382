"""The measuring process: `python -m benchmarks.gpu.worker CONFIG.json`, supervised by `schedule.Runner`.

Each line on stdin is a task, {"function", "args"}; each is answered by lines of JSON: {"row": ...} the moment there is
one, then {"end": "done"}, with "error" where it failed; {"end": "broken"} where the device can no longer be used.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

import torch

from benchmarks.gpu.context import Context
from benchmarks.record import last_line
from utils.device import describe

# A kernel that went wrong takes the device's state in this process with it.
BROKEN = ("CUDA error", "device-side assert", "cudaError", "illegal memory access", "CUDNN_STATUS_EXECUTION_FAILED")


def main(path: str) -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anybody else prints

    def say(answer: dict) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    config = json.loads(Path(path).read_text(encoding="utf-8"))
    device = torch.device(config["device"])
    context = Context(device, config["small"], Path(config["shared"]), Path(config["work"]),
                      lambda row: say({"row": row}))
    say({"device": describe(device)})
    for line in sys.stdin:
        task = json.loads(line)
        say(answer_to(task, context))
        with contextlib.suppress(RuntimeError):
            context.forget()


def answer_to(task: dict, context: Context) -> dict:
    """Run a task; what to say at its end."""
    try:
        module, _, name = task["function"].rpartition(".")
        getattr(importlib.import_module(module), name)(context, *task["args"])
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {last_line(str(error).partition(chr(10))[0]) or 'without a word'}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        broken = context.cuda and any(word in str(error) for word in BROKEN)
        return {"end": "broken" if broken else "done",
                "error": f"{told} ({Path(place.filename).name}:{place.lineno})"}
    return {"end": "done"}


if __name__ == "__main__":
    main(sys.argv[1])
