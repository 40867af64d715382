"""The batch that fits: on devices made of numbers, and on this one."""

import contextlib
import json
import sys

import pytest
import torch
from torch import nn

from engine.training.autobatch import Meter, find_batch, is_out_of_memory, optimizer_bytes, probe_step, untouched
from models import build_model
from tests.refusals import user_error
from tests.running import run

CUDA = torch.device("cuda")  # only its limits are taken; nothing is put there
CPU = torch.device("cpu")
GIB = 2**30


class Machine:
    """Steps that need base + n * each bytes; above `wall` they run out of memory."""

    def __init__(self, each, base=GIB, free=100 * GIB, wall=None, bend=0.0):
        self.each, self.base, self.wall, self.bend = each, base, wall or free, bend
        self.tried, self.need = [], 0
        self.meter = Meter(free, self.peak)

    def step(self, batch):
        self.tried.append(batch)
        self.need = int(self.base + batch * self.each * (1 + self.bend * batch))
        if self.need > self.wall:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def peak(self, run):
        run()
        return self.need


@pytest.fixture
def keep_off_cuda(monkeypatch):
    """`untouched` would ask a CUDA device for its random state."""
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())


def find(machine, device=CUDA, **options):
    return find_batch(machine.step, nn.Linear(2, 2), device, meter=machine.meter, **options)


@pytest.mark.usefixtures("keep_off_cuda")
class TestOnAGPU:
    def test_the_largest_batch_within_three_quarters_verified_by_a_step(self):
        machine = Machine(each=GIB // 2)
        assert find(machine) == 144  # 1 + 144 / 2 <= 75, in steps of 8
        assert machine.tried == [1, 2, 4, 8, 16, 32, 64, 144]

    def test_one_image_is_not_tried_where_batch_norm_needs_two(self):
        machine = Machine(each=GIB // 2)
        assert find(machine, least=2) == 144 and machine.tried == [2, 4, 8, 16, 32, 64, 144]
        assert find(Machine(each=30 * GIB), least=2) == 2
        assert find(Machine(each=GIB // 2), least=2, most=1) == 2
        with user_error("out-of-memory", "not even 2 images fit"):
            find(Machine(each=60 * GIB), least=2)

    def test_never_more_than_there_are_images(self):
        assert find(Machine(each=GIB // 2), most=50) == 50
        assert find(Machine(each=1000), most=5000) == 1024

    def test_small_answers_are_powers_of_two(self):
        assert find(Machine(each=12 * GIB)) == 4  # 6 would fit
        assert find(Machine(each=40 * GIB)) == 1

    def test_what_comes_later_is_left_free(self):
        assert find(Machine(each=GIB // 2), reserve=20 * GIB) == 104

    def test_more_than_the_line_promised_is_found_out_by_the_last_step(self):
        machine = Machine(each=GIB // 4, bend=0.004)
        batch = find(machine)
        machine.step(batch)
        assert machine.need <= 75 * GIB and batch % 8 == 0 and batch >= 64

    def test_out_of_memory_halves(self):
        machine = Machine(each=GIB // 2, wall=50 * GIB)  # somebody else has the rest
        assert find(machine) == 72 and machine.tried[-2:] == [144, 72]

    def test_not_even_one(self):
        with user_error("out-of-memory", "--batch-size -1"):
            find(Machine(each=200 * GIB))

    def test_other_errors_pass(self):
        with pytest.raises(RuntimeError, match="shapes"):
            find_batch(lambda n: (_ for _ in ()).throw(RuntimeError("shapes")), nn.Linear(2, 2), CUDA,
                       meter=Machine(1).meter)


def test_on_a_cpu_no_step_is_tried_that_the_line_puts_beyond_the_limit():
    machine = Machine(each=GIB, base=GIB, free=10 * GIB)
    assert find(machine, CPU) == 4 and max(machine.tried) == 4  # 7.5 GiB hold six
    assert find(Machine(each=GIB), CPU) == 16


def test_a_real_step_leaves_the_model_and_the_random_state_as_they_were(capsys):
    model = build_model("yolov8n", 3).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    batch = find_batch(probe_step(model, CPU, (64, 64)), model, CPU, most=3)
    assert batch in (1, 2, 3) and f"taking {batch}" in capsys.readouterr().out
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and not model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_state_comes_back_after_an_error_too():
    model = nn.BatchNorm2d(3)
    with pytest.raises(ZeroDivisionError), untouched(model, CPU):
        model(torch.ones(2, 3, 4, 4))
        raise ZeroDivisionError
    assert model.running_mean.tolist() == [0, 0, 0] and model.num_batches_tracked == 0


METER = """
import json, sys
from pathlib import Path
import torch
from engine.training.autobatch import meter_of
if sys.argv[1] == "refused":
    write = Path.write_text
    def refuse(path, *words, **more):
        if path.name == "clear_refs":
            raise PermissionError(13, "Permission denied")
        return write(path, *words, **more)
    Path.write_text = refuse
meter = meter_of(torch.device("cpu"))
small = meter.peak(lambda: None)
large = meter.peak(lambda: torch.ones(64 * 2**20).sum())  # 256 MiB
print(json.dumps({"small": small, "large": large, "free": meter.free}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("setting_back", ["allowed", "refused"])
def test_the_meter_of_the_process_sees_a_large_tensor(setting_back):
    """In a process of its own, which has held little before: a peak that cannot be set back is that of its whole life.

    Containers may refuse to set it back.
    """
    done = run("-c", METER, setting_back)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0.2 * GIB < told["large"] - told["small"] < 0.4 * GIB and told["free"] > told["large"]


@pytest.mark.parametrize("error, expected", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True), (MemoryError(), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (ValueError("CUDA out of memory"), False)])
def test_running_out_of_memory_is_recognised(error, expected):
    assert is_out_of_memory(error) == expected


def test_torch_itself_says_it_in_these_words():
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_out_of_memory(told.value)


def test_the_optimisers_share():
    model = nn.Linear(10, 10)
    assert (optimizer_bytes(model, "SGD"), optimizer_bytes(model, "AdamW")) == (440, 880)
