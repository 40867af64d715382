"""Reading a pickle without executing anything in it.

A pickle is a small program: it names globals, calls some of them (REDUCE) and makes objects of others (NEWOBJ, BUILD).
Here no name is ever imported. A handful of callables that checkpoints need are re-made below from plain Python; every
other name becomes an inert class whose objects only remember what they were made from, and which cannot be called: a
file that calls one is refused with the name it asked for.
"""

import pickle
import pickletools
import re
import reprlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
          "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
          "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
          "BoolStorage": torch.bool}
# One name for what Python 2, 3 and numpy 1, 2 call differently; protocol 2, torch's own, writes the names of Python 2.
_SAME = {**IMPORT_MAPPING, "numpy._core.multiarray": "numpy.core.multiarray", "pathlib._local": "pathlib"}
_KNOWN_AS = {"posix.system": "os.system", "nt.system": "os.system"}


MAX_OPCODES = 2_000_000  # the largest known model needs some 700,000
MAX_EXPANDED = 1_000_000  # objects in a tuple, those of tuples inside it counted each time: to hash it visits them all
MAX_COPIED = 1 << 26  # bytes and entries that calls may copy in all
MAX_HUGE = 10_000  # integers beyond 61 bits, which can be chosen so that a dict's keys all collide

Locate = Callable[[str, int, torch.dtype], Callable[[], bytes]]  # key, count, type of a storage -> what reads it


class Refusal(Exception):
    """A pickle asked for a call that no checkpoint needs; the text is the name."""


class Kind(type):
    """The inert class that stands for one global name; calling it is refused."""

    path: str

    def __call__(cls, *args: Any, **options: Any) -> Any:
        raise Refusal(cls.path)


class Record(metaclass=Kind):
    """An object of an unknown class: its class's name, what it was made from, its state and its contents."""

    path = "object"

    def __new__(cls, *args: Any, **options: Any) -> "Record":
        record = object.__new__(cls)
        record.args, record.state, record.entries = args, None, []
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries.append((key, value))

    def append(self, value: Any) -> None:
        self.entries.append(value)

    add = append

    def extend(self, values: Any) -> None:
        self.entries.extend(values)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the object's `__dict__` and slots held."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {str(k): v for part in parts if isinstance(part, dict) for k, v in part.items()}


def kind_of(path: str) -> Kind:
    """A new inert class for the global `path`."""
    return Kind("Record", (Record,), {"path": path})


class Sealed:
    """Something that a pickle may hold but not change: BUILD would otherwise write into `__dict__`."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("sets the state of something that has none")


class Mapping(dict, Sealed):
    """OrderedDict and its like; attributes set on it, such as `_metadata`, are left."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Allowed(Sealed):
    """A name that may be called, and the plain function that is called instead of it."""

    name: str
    function: Callable[..., Any]
    spend: Callable[[int], None]

    def __call__(self, *args: Any) -> Any:
        self.spend(sum(len(a) for a in args if isinstance(a, str | bytes | list | tuple | dict | set | frozenset)))
        return self.function(*args)


@dataclass(frozen=True)
class Storage(Sealed):
    """Numbers stored elsewhere in the file; `read` returns their bytes, `spend` counts what becomes a tensor."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytes]
    spend: Callable[[int], None] = int


@dataclass(frozen=True)
class StoredTensor(Sealed):
    """A tensor that has not been read yet. Raises ValueError where it would reach beyond its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        if any(type(n) is not int or n < 0 for n in numbers) or len(self.shape) != len(self.stride):
            raise ValueError(f"a tensor of shape {reprlib.repr(self.shape)}, stride {reprlib.repr(self.stride)}, "
                             f"offset {reprlib.repr(self.offset)}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if prod(self.shape) and last >= self.storage.numel:
            raise ValueError(f"a tensor of shape {reprlib.repr(self.shape)}, stride {reprlib.repr(self.stride)}, "
                             f"offset {self.offset} reaches beyond its {self.storage.numel} stored numbers")

    def load(self, keep_strides: bool = False) -> Tensor:
        """The numbers, in memory of their own, contiguous unless `keep_strides` and another order fills it too.

        Raises ValueError where the file holds fewer than it declares.
        """
        numel, size = self.storage.numel, self.storage.dtype.itemsize
        if prod(self.shape) > numel:
            raise ValueError(f"a tensor of shape {reprlib.repr(self.shape)} repeats its {numel} stored numbers")
        self.storage.spend(prod(self.shape) * size)
        data = self.storage.read() if numel else b""
        if len(data) != numel * size:
            raise ValueError(f"a storage of {numel} numbers holds {len(data)} bytes instead of {numel * size}")
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=self.storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=self.storage.dtype)
        view = flat.as_strided(self.shape, self.stride, self.offset)
        if prod(self.shape) == numel and (view.is_contiguous() or (keep_strides and self._is_dense())):
            return view
        return view.clone(memory_format=torch.contiguous_format)

    def _is_dense(self) -> bool:
        """Whether the elements lie side by side in some order of the dimensions."""
        step = 1
        for stride, n in sorted(zip(self.stride, self.shape, strict=True)):
            if n > 1 and stride != step:
                return False
            step *= n
        return True


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if len(shape) > 16 or len(stride) > 16:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _typed(function: Any, kind: Any, args: Any, state: Any) -> StoredTensor:
    """A tensor with attributes of its own, which are left."""
    if not isinstance(function, Allowed) or function.name not in _TENSORS:
        raise ValueError("a tensor made by something else than a tensor function")
    return function(*args)


def _parameter(data: Any, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise ValueError("a parameter that is no tensor")
    return data


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or coding not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise ValueError(f"bytes encoded as {reprlib.repr(coding)}")
    return text.encode(coding)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """A numpy number as a plain one; numpy values of other types stay records."""
    code = dtype.args[0] if isinstance(dtype, Record) and dtype.args else None
    if not (isinstance(code, str) and isinstance(data, bytes) and re.fullmatch(r"[fiub][1248]", code)):
        return Record.__new__(kind_of("numpy.scalar"), dtype, data)
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    kind = np.dtype(code).newbyteorder(">" if order == ">" else "<")
    if len(data) != kind.itemsize:
        raise ValueError(f"a number of type {code} in {len(data)} bytes")
    return np.frombuffer(data, kind)[0].item()


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a path of something else than texts")
    return str(PurePosixPath(*parts))


def _size(items: Any = ()) -> tuple[int, ...]:
    """torch.Size."""
    if not all(type(item) is int for item in items):
        raise ValueError("a size of something else than whole numbers")
    return tuple(items)


def _remade(kind: Any, *args: Any) -> Record:
    """`copyreg`'s ways to make an object of a class without calling it."""
    if not isinstance(kind, Kind):
        raise ValueError("an object of something that is no class")
    return kind.__new__(kind, *args)


def _attribute(owner: Any, name: Any) -> Record:
    """`getattr` on an object of the file, as bound methods are pickled; on anything else it is a way to run things."""
    if not isinstance(owner, Record):
        raise Refusal("builtins.getattr")
    return Record.__new__(kind_of("builtins.getattr"), owner, name)


def _inert(path: str) -> Callable[..., Record]:
    """The function that, called like `path`, only remembers its arguments."""
    return lambda *args: Record.__new__(kind_of(path), *args)


_TENSORS = {"torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_parameter": _parameter, "torch._utils._rebuild_parameter_with_state": _parameter}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_TENSORS, "torch._tensor._rebuild_from_type_v2": _typed, "torch.Size": _size, "torch.device": _inert("device"),
    "collections.OrderedDict": Mapping, "collections.Counter": Mapping, "collections.defaultdict": lambda *_: Mapping(),
    "collections.deque": lambda items=(), *_: list(items), "builtins.set": set, "builtins.frozenset": frozenset,
    "_codecs.encode": _encode, "numpy.core.multiarray.scalar": _scalar, "copyreg._reconstructor": _remade,
    "copyreg.__newobj__": _remade, "builtins.getattr": _attribute,
    **{f"pathlib.{name}": _path for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath",
                                             "PureWindowsPath")},
    **{name: _inert(name) for name in (
        "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer", "builtins.slice",
        "numpy._core.numeric._frombuffer", "builtins.complex", "datetime.datetime", "datetime.date",
        "datetime.timedelta", "datetime.timezone", "functools.partial")}}
_NAMESPACES = ("SimpleNamespace", "IterableSimpleNamespace")  # Python writes these as a call without arguments


def load_pickle(file: BinaryIO, size: int, locate: Locate, stored: int) -> Any:
    """The next object in `file`, which is `size` bytes long. It is looked through first: see `_look_through`.

    stored: bytes of the whole checkpoint; its tensors together may take four times as many.
    """
    start = file.tell()
    _look_through(file, size)
    file.seek(start)
    return Reader(file, locate, 4 * stored).load()


_MARK = -1


def _look_through(file: BinaryIO, size: int) -> None:
    """Raise ValueError for a program that would take memory or time without bound.

    It may number its memo as it likes, and Python reserves memory up to that number. A tuple of tuples of tuples, each
    there twice, is small and takes forever to hash: how many objects each would visit is followed on a stack.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    huge = 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if "PUT" in name:
            if argument > size:
                raise ValueError(f"entry {argument} of the memo, at byte {position}, in a file of {size} bytes")
            memo[argument] = stack[-1] if stack else 1
        huge += isinstance(argument, int) and abs(argument) >= (1 << 61) - 1
        if count > MAX_OPCODES or huge > MAX_HUGE:
            raise ValueError(f"more than {MAX_OPCODES:,} steps or {MAX_HUGE:,} numbers beyond 61 bits, as no model has")
        taken = _take(stack, opcode)
        if name == "MEMOIZE":
            memo[len(memo)] = taken[0] if taken else 1
        if "GET" in name:
            stack.append(memo.get(argument, 1))
        elif name in ("DUP", "MEMOIZE"):
            stack += taken[:1] * len(opcode.stack_after)
        elif "TUPLE" in name:
            stack.append(1 + sum(taken))
            if stack[-1] > MAX_EXPANDED:
                raise ValueError(f"a tuple of more than {MAX_EXPANDED:,} objects inside each other")
        else:
            stack += [_MARK if kind is pickletools.markobject else 1 for kind in opcode.stack_after]


def _take(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """What the opcode takes off the stack."""
    kinds, taken = opcode.stack_before, []
    below = len(kinds)
    if pickletools.markobject in kinds or (opcode.name == "POP" and stack[-1:] == [_MARK]):
        while stack and stack[-1] != _MARK:
            taken.append(stack.pop())
        stack[-1:] = []
        below = kinds.index(pickletools.markobject) if pickletools.markobject in kinds else 0
    taken += [stack.pop() for _ in range(min(below, len(stack)))]
    return taken


class Reader(pickle.Unpickler):
    """An unpickler that imports nothing and calls only what `_FUNCTIONS` lists.

    locate: gives the bytes of a storage by its key, as a function to call later, with the count of its numbers.
    limit: bytes of all tensors together.
    """

    def __init__(self, file: BinaryIO, locate: Locate, limit: int) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.locate, self.left, self.copied = locate, limit, 0
        self.globals: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (_SAME.get(module, module), name))
        path = f"{module}.{name}"
        if path not in self.globals:
            self.globals[path] = self._global(path, name)
        return self.globals[path]

    def _spend_bytes(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("its tensors repeat the stored numbers over and over")

    def _spend(self, count: int) -> None:
        self.copied += count
        if self.copied > MAX_COPIED:
            raise ValueError(f"calls that copy more than {MAX_COPIED >> 20} Mi entries")

    def _global(self, path: str, name: str) -> Any:
        if path in _FUNCTIONS:
            return Allowed(path, _FUNCTIONS[path], self._spend)
        if path.startswith("torch.") and name in DTYPES:
            return DTYPES[name]
        if name in _NAMESPACES:
            kind = kind_of(path)
            return Allowed(path, lambda: Record.__new__(kind), self._spend)
        return kind_of(_KNOWN_AS.get(path, path))

    def persistent_load(self, pid: Any) -> Any:
        """("storage", type, key, device, count[, view]) -> the storage, unread.

        ("module", class, its file, its source), as torch before 1.6 wraps classes -> the class; the source is left.
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Kind):
            return pid[1]
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
                and isinstance(pid[1], torch.dtype) and isinstance(pid[2], str | int) and type(pid[4]) is int
                and pid[4] >= 0):
            raise ValueError(f"a persistent object that is no storage: {reprlib.repr(pid)[:80]}")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a storage that is a view of another, which torch wrote before version 0.4 only")
        return Storage(pid[1], pid[4], self.locate(str(pid[2]), pid[4], pid[1]), self._spend_bytes)
