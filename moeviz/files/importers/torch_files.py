"""torch's files, read without torch: its pickle is interpreted by a machine that knows tensors, containers,
numbers and text only.

Nothing that the pickle names is imported or called. `torch._utils._rebuild_tensor_v2` and
`collections.OrderedDict` are recognised by their names and stand for a tensor and a dict; any other name
refuses the file.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from moeviz.files.importers.numpy_files import open_zip, read_member
from moeviz.files.importers.source import Source

MOST_PICKLE = 32 * 2**20  # bytes of the pickle; tensors stand beside it
_CONTAINER, _OTHER = 120, 48  # bytes of Python's objects
_STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<b1",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_DICT = "collections OrderedDict"


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that the pickle names, known by its name only."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes beside the pickle."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's numbers are; they are read when they are asked for."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchFile:
    """A `.pt` file: `content`, with tensors as `Tensor`, whose numbers `array` reads. Raises TraceError."""

    def __init__(self, source: Source) -> None:
        self._source, self._members = source, open_zip(source)
        pickles = [name for name in self._members if name.endswith("/data.pkl") or name == "data.pkl"]
        if not pickles:
            raise source.error("is a zip file without data.pkl; torch did not save it.")
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._members.get(self._folder + "byteorder")
        if order is not None and order.file_size < 10 and read_member(source, order).strip() != b"little":
            raise source.error("its tensors are big-endian, which is not read.")
        self.content = self._machine(self._member("data.pkl"))

    def _member(self, name: str) -> bytes:
        member = self._members.get(self._folder + name)
        if member is None:
            raise self._source.error(f"lacks the member {name[:40]!r}.")
        self._source.afford(member.file_size, f"the member {name[:40]!r}")
        if name == "data.pkl" and member.file_size > MOST_PICKLE:
            raise self._source.error(
                f"its pickle has {member.file_size:,} bytes; at most {MOST_PICKLE:,} are read."
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._source.error(f"the member {name[:40]!r} is packed in a way that torch does not use.")
        return read_member(self._source, member)

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """The numbers of a tensor. Raises TraceError where they are not all there."""
        storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
        kind = np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
        last = tensor.offset + sum(
            (size - 1) * step for size, step in zip(shape, stride, strict=True) if size
        )
        size = math.prod(shape)
        beyond = min((tensor.offset, *shape, *stride), default=0) < 0 or last >= storage.count
        if size and (beyond or len(shape) > 8):
            raise self._source.error(
                f"a tensor {shape} reaches beyond its storage of {storage.count:,} numbers."
            )
        self._source.afford(size * max(kind.itemsize, 4), f"a tensor {shape}")
        if size == 0:
            return np.zeros(shape, kind)
        content = self._member(f"data/{storage.key}")
        if len(content) < (last + 1) * kind.itemsize:
            raise self._source.error(f"the numbers of a tensor {shape} are cut short.")
        flat = np.frombuffer(content, kind, len(content) // kind.itemsize)
        steps = tuple(step * kind.itemsize for step in stride)
        found = np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, steps, writeable=False)
        if storage.dtype == "bfloat16":
            return (found.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(found)

    def _machine(self, content: bytes) -> Any:
        """What the pickle builds, of plain things only."""
        try:
            return self._run(content)
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            OverflowError,
        ) as error:
            if isinstance(error, type(self._source.error(""))):
                raise
            raise self._source.error(f"its pickle is damaged: {str(error)[:80]}.") from None

    def _run(self, content: bytes) -> Any:
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        spent = 0
        for opcode, given, _ in pickletools.genops(io.BytesIO(content)):
            name, argument = opcode.name, cast(Any, given)
            spent += _CONTAINER if name in ("EMPTY_DICT", "EMPTY_LIST", "REDUCE", "MARK") else _OTHER
            if spent > self._source.room:
                self._source.afford(spent, "what its pickle builds")
            match name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    marks.append(len(stack))
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE":
                    stack.append(argument)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(name[-1])
                    stack[-count:] = [tuple(stack[-count:])] if len(stack) >= count else [stack[count]]
                case "TUPLE":
                    at = marks.pop()
                    stack[at:] = [tuple(stack[at:])]
                case "APPEND":
                    one = stack.pop()
                    _list(stack[-1]).append(one)
                case "APPENDS":
                    at = marks.pop()
                    _list(stack[at - 1]).extend(stack[at:])
                    del stack[at:]
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _dict(stack[-1])[_key(key)] = value
                case "SETITEMS":
                    at = marks.pop()
                    target = _dict(stack[at - 1])
                    for key, value in zip(stack[at::2], stack[at + 1 :: 2], strict=True):
                        target[_key(key)] = value
                    del stack[at:]
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(self._named(argument))
                case "STACK_GLOBAL":
                    attribute, module = stack.pop(), stack.pop()
                    stack.append(self._named(f"{module} {attribute}"))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(self._made(stack.pop(), arguments))
                case _:
                    raise self._source.error(
                        f"its pickle asks for {name}, which plain tensors, lists and dicts do not need."
                    )
        raise self._source.error("its pickle has no end.")

    def _named(self, name: str) -> _Name:
        module, _, attribute = name.partition(" ")
        if name not in (_REBUILD, _DICT) and not (module == "torch" and attribute in _STORAGES):
            raise self._source.error(
                f"its pickle names {name.replace(' ', '.')[:60]}, which is code; nothing of it was run. "
                "Only tensors, lists, dicts, numbers and text are read."
            )
        return _Name(name)

    def _storage(self, given: Any) -> _Storage:
        kind, name, key, _, count = given
        if (
            kind != "storage"
            or not isinstance(name, _Name)
            or type(count) is not int
            or not str(key).isalnum()
        ):
            raise self._source.error("its pickle names a storage that torch does not write.")
        return _Storage(_STORAGES[name.name.partition(" ")[2]], str(key), count)

    def _made(self, what: Any, arguments: Any) -> Any:
        if what == _Name(_DICT) and arguments == ():
            return {}
        if what != _Name(_REBUILD) or not isinstance(arguments, tuple) or len(arguments) < 4:
            raise self._source.error("its pickle builds something that is no tensor, list or dict.")
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage) or len(shape) != len(stride):
            raise self._source.error("its pickle holds a tensor that cannot be.")
        if not all(type(one) is int for one in (offset, *shape, *stride)):
            raise self._source.error("its pickle holds a tensor that cannot be.")
        return Tensor(storage, offset, tuple(shape), tuple(stride))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError("a dict is missing")
    return value


def _key(value: Any) -> Any:
    """Text, numbers and tuples of them; a tuple nested too deeply to be hashed is no key."""
    if not isinstance(value, (str, int, float, type(None))):
        raise TypeError("a key is neither text nor a number")
    return value
