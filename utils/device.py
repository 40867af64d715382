"""Selection of the device and of the precision."""

import torch

from utils.errors import UserError


def select_device(name: str = "") -> torch.device:
    """'' takes the first GPU or else the CPU; 'cpu', '0', 'cuda:1' name one. Raises `UserError` for a missing one."""
    given = str(name).strip().lower()
    if given == "cpu" or (given == "" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device is visible; use --device cpu", code="missing-device")
    index = given.removeprefix("cuda:").removeprefix("cuda") or "0"
    if "," in index:
        raise UserError(f"--device {name}: several GPUs need a process each; start it with torchrun --nproc-per-node "
                        f"{len(index.split(','))} train.py ..., or name one GPU, such as --device "
                        f"{index.split(',')[0] or 0}", code="bad-value")
    if not index.isdigit() or int(index) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has devices 0 to {torch.cuda.device_count() - 1}, and cpu",
                        code="missing-device")
    return torch.device("cuda", int(index))


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch; on a CPU the same seed then gives the same weights bit for bit.

    On a GPU speed comes first: cuDNN picks its fastest kernels, and sums may round differently from run to run.
    Data needs no global seed: a sample depends on (seed, epoch, index) only.
    """
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # slow; only finds reads of uninitialised data
    torch.backends.cudnn.benchmark = device.type == "cuda"


def amp_dtype(device: torch.device, wanted: str = "auto") -> torch.dtype | None:
    """The autocast type: bf16 where the device computes it natively, fp16 on older GPUs, None for plain fp32.

    wanted: "auto", "bf16", "fp16" or "fp32". fp16 needs a loss scaler and is for GPUs only.
    """
    if wanted == "fp32":
        return None
    if wanted == "bf16":
        return torch.bfloat16
    if wanted == "fp16":
        if device.type == "cpu":
            raise UserError("--amp fp16: CPUs train in bf16 or fp32; use --amp bf16", code="bad-value")
        return torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def memory_gb(device: torch.device) -> float:
    """Peak memory so far in GiB: of the allocator on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def describe(device: torch.device) -> str:
    """A name for the log, such as `NVIDIA H200 (139 GiB)` or `cpu (2 threads)`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
    return f"cpu ({torch.get_num_threads()} threads)"
