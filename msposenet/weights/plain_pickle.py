"""The plain values in a pickle: numbers, strings, lists, dicts, and what the caller admits by name. Nothing is run.

Python's own unpickler imports what a file names, calls what it imported, reads lengths before bytes and grows its memo
to any index. This one has no import in it: a name is looked up in a table of the caller's functions, and a name that is
not there ends the reading. Every count is held against the bytes that are left.

The operations are those of CPython's Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

from msposenet.errors import CheckpointError

_MOST_ARGUMENTS = 16  # of one call
_MOST_STEPS = 1_000_000  # HRNet W48 with its optimizer takes 137,000
_LONGEST_LINE = 1000  # reading a number from digits takes time by the square of their count

_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_EMPTY = {b"]": list, b"}": dict, b"\x8f": list}  # a set as a list: no value of a file is hashed but names
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_SIZED = {
    b"U": ("<B", "latin-1"), b"T": ("<I", "latin-1"),  # strings of Python 2
    b"\x8c": ("<B", "utf-8"), b"X": ("<I", "utf-8"), b"\x8d": ("<Q", "utf-8"),
    b"C": ("<B", None), b"B": ("<I", None), b"\x8e": ("<Q", None), b"\x96": ("<Q", None),
    b"\x8a": ("<B", "integer"), b"\x8b": ("<I", "integer"),
}  # fmt: skip
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_TO_MEMO = {b"q": "<B", b"r": "<I"}
_FROM_MEMO = {b"h": "<B", b"j": "<I"}
_LINES = {b"I": int, b"L": int, b"F": float, b"S": str, b"V": str}
_EXTENSIONS = {b"\x82": 1, b"\x83": 2, b"\x84": 4}
_MARK = object()


class Call(NamedTuple):
    """An admitted name that a pickle may call."""

    name: str
    make: Callable[..., Any]


class Window:
    """The bytes `at`..`end` of a file, read forward; `path` is only named in errors."""

    def __init__(self, path, file: BinaryIO, at: int, end: int):
        self.path, self.file, self.at, self.end = path, file, at, end
        file.seek(at)

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            self.fail(f"{count:,} bytes are needed at byte {self.at:,} and {self.end - self.at:,} are left")
        data = self.file.read(count)
        self.at += count
        return data

    def unpack(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        line = self.file.readline(min(_LONGEST_LINE, self.end - self.at))
        self.at += len(line)
        if not line.endswith(b"\n"):
            self.fail("a line of its list of tensors has no end")
        return line[:-1].decode("utf-8")

    def fail(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {reason}: the file is cut or damaged; fetch or save it again")


def read_pickle(
    window: Window,
    names: Mapping[str, Any],
    *,
    refuse: Callable[[str], NoReturn],
    persistent: Callable[[Any], Any] | None = None,
    build: Callable[[Any, Any], None] | None = None,
) -> Any:
    """One pickle, from the window's place to its own end.

    `names`: "module.name" -> a `Call`, or any other value as which the name itself is given. `refuse(name)` must raise
    for every other name. `persistent(identity)` gives what is stored outside of the pickle, `build(object, state)`
    takes the state of an object that a `Call` made. Raises CheckpointError for damage.
    """
    machine = _Machine(window, names, refuse, persistent, build)
    try:
        return machine.run()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        window.fail(f"its list of tensors makes no sense before byte {window.at:,} ({type(error).__name__})")


class _Machine:
    def __init__(self, window, names, refuse, persistent, build):
        self.window, self.names, self.refuse = window, names, refuse
        self.persistent, self.build = persistent, build
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        take = self.window.take
        for _ in range(_MOST_STEPS):
            code = take(1)
            if code == b".":
                return self.stack.pop()
            self.step(code)
        self.window.fail(f"its list of tensors takes over {_MOST_STEPS:,} steps")

    def step(self, code: bytes) -> None:
        stack, window = self.stack, self.window
        if code in _TO_MEMO:
            self.memo[window.unpack(_TO_MEMO[code])] = self.top()
        elif code in _FROM_MEMO:
            stack.append(self.memo[window.unpack(_FROM_MEMO[code])])
        elif code in _SIZED:
            stack.append(self.sized(*_SIZED[code]))
        elif code in _NUMBERS:
            stack.append(window.unpack(_NUMBERS[code]))
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code in _TUPLES:
            count = _TUPLES[code]
            self.top(count)
            stack[-count:] = [tuple(stack[-count:])]
        elif code in _LINES:
            stack.append(self.from_line(code))
        elif code in _EXTENSIONS:
            self.refuse(f"extension {int.from_bytes(window.take(_EXTENSIONS[code]), 'little')} of copyreg")
        else:
            step = _STEPS.get(code)
            if step is None:
                window.fail(f"its list of tensors has the byte 0x{code.hex()} where an operation must be")
            step(self)

    # Operands

    def top(self, count: int = 1) -> Any:
        """The value on top, of at least `count` above the last mark."""
        if len(self.stack) < count or any(value is _MARK for value in self.stack[-count:]):
            raise IndexError
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Everything above the last mark; the mark goes too."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def sized(self, layout: str, kind: str | None) -> Any:
        count = self.window.unpack(layout)
        if kind == "integer":
            return int.from_bytes(self.window.take(count), "little", signed=True)
        data = self.window.take(count)
        return data if kind is None else data.decode(kind)

    def from_line(self, code: bytes) -> Any:
        line = self.window.line()
        if code in (b"I", b"L"):
            return {"00": False, "01": True}.get(line) if line in ("00", "01") else int(line.rstrip("L"))
        return _LINES[code](line)

    # Operations

    def append(self, values: list[Any]) -> None:
        self.list_on_top().extend(values)

    def list_on_top(self) -> list[Any]:
        if type(self.top()) is not list:
            raise TypeError
        return self.stack[-1]

    def set_items(self, values: list[Any]) -> None:
        if type(self.top()) is not dict:
            raise TypeError
        put_items(self.stack[-1], values)

    def call(self, function: Any, arguments: Any) -> None:
        # Many calls with one long tuple would each copy it.
        if not isinstance(function, Call) or type(arguments) is not tuple or len(arguments) > _MOST_ARGUMENTS:
            raise TypeError
        self.stack.append(function.make(*arguments))

    def look_up(self, module: Any, name: Any) -> Any:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        full = f"{module}.{name}"
        if full not in self.names:
            self.refuse(full)
        return self.names[full]

    def op_append(self) -> None:
        value = self.pop()
        self.append([value])

    def op_set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def op_dict(self) -> None:
        items: dict[Any, Any] = {}
        put_items(items, self.marked())
        self.stack.append(items)

    def op_global(self) -> None:
        module = self.window.line()
        self.stack.append(self.look_up(module, self.window.line()))

    def op_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.look_up(module, name))

    def op_inst(self) -> None:
        module = self.window.line()
        function = self.look_up(module, self.window.line())
        self.call(function, tuple(self.marked()))

    def op_obj(self) -> None:
        function, *arguments = self.marked()
        self.call(function, tuple(arguments))

    def op_reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.call(function, arguments)

    def op_new_with_keywords(self) -> None:
        if self.pop() != {}:
            raise TypeError
        self.op_reduce()

    def op_build(self) -> None:
        state = self.pop()
        if self.build is None:
            raise TypeError
        self.build(self.top(), state)

    def op_persistent(self) -> None:
        if self.persistent is None:
            raise TypeError
        self.stack.append(self.persistent(self.pop()))

    def op_persistent_line(self) -> None:
        self.refuse(f"persistent {self.window.line()!r:.80}")

    def op_protocol(self) -> None:
        if self.window.unpack("<B") > 5:
            raise ValueError

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.top()

    def op_put(self) -> None:
        self.memo[int(self.window.line())] = self.top()

    def op_get(self) -> None:
        self.stack.append(self.memo[int(self.window.line())])

    def op_pop(self) -> None:
        self.stack.pop()


_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"(": lambda machine: machine.stack.append(_MARK),
    b"t": lambda machine: machine.stack.append(tuple(machine.marked())),
    b"l": lambda machine: machine.stack.append(machine.marked()),
    b"\x91": lambda machine: machine.stack.append(machine.marked()),
    b"e": lambda machine: machine.append(machine.marked()),
    b"\x90": lambda machine: machine.append(machine.marked()),
    b"u": lambda machine: machine.set_items(machine.marked()),
    b"1": lambda machine: machine.marked(),
    b"2": lambda machine: machine.stack.append(machine.top()),
    b"\x95": lambda machine: machine.window.unpack("<Q"),  # a frame's length: bytes are read one by one here
    b"0": _Machine.op_pop,
    b"a": _Machine.op_append,
    b"s": _Machine.op_set_item,
    b"d": _Machine.op_dict,
    b"c": _Machine.op_global,
    b"\x93": _Machine.op_stack_global,
    b"i": _Machine.op_inst,
    b"o": _Machine.op_obj,
    b"R": _Machine.op_reduce,
    b"\x81": _Machine.op_reduce,
    b"\x92": _Machine.op_new_with_keywords,
    b"b": _Machine.op_build,
    b"Q": _Machine.op_persistent,
    b"P": _Machine.op_persistent_line,
    b"\x80": _Machine.op_protocol,
    b"\x94": _Machine.op_memoize,
    b"p": _Machine.op_put,
    b"g": _Machine.op_get,
}


def put_items(items: dict[Any, Any], flat: list[Any]) -> None:
    """Keys and values in turn into `items`; a key that is no string and no small whole number is left out.

    Weights have names and optimizers number their parameters. Other keys name nothing that is wanted, and hashing
    whatever a file holds can be made to take for ever (tuples within tuples, whole numbers that collide).
    """
    if len(flat) % 2:
        raise ValueError
    for key, value in zip(flat[::2], flat[1::2]):
        if isinstance(key, str) or (type(key) is int and abs(key) < 1 << 31):
            items[key] = value
