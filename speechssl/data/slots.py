"""Large tensors from one process to another without copies or page faults: slots of shared memory, used in turn.

A tensor that is handed out lives in its slot. The slot is free again when the last view of it is gone, which NumPy
and torch tell through their references. Where no slot is free, or the tensor is larger, torch's own shared memory
takes over: it costs about 7 ms for a batch of 5.6 MB, a slot about 2 ms. What is made in `empty` memory while a slot is
lent lies there from the beginning and costs no copy at all.
"""

import mmap
import pickle
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
import torch.multiprocessing  # registers how tensors are pickled

SMALL_BYTES = 1 << 15
"""Tensors up to this size are copied through the pipe."""
_lender: ContextVar["Slots | None"] = ContextVar("lender", default=None)


def empty(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """Memory to be filled, like `numpy.empty`; in a slot where one is lent, large enough and not yet given away."""
    lender = _lender.get()
    array = None if lender is None else lender.give(shape, np.dtype(dtype))
    return np.empty(shape, dtype) if array is None else array


class Slots:
    """Shared memory between a process and the workers that it forks; each has slots of its own.

    In the parent, `take` a free slot for a request, and `loads` what the worker sends back. In the worker, `dumps` the
    result with the slot of its request.
    """

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self._slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        # pages come into being when they are first written to
        self._memory = mmap.mmap(-1, max(1, num_slots * self._slot_bytes))
        self._free = deque(range(num_slots if slot_bytes else 0))
        self._lent: int | None = None
        self._given: np.ndarray[Any, Any] | None = None

    def take(self) -> int | None:
        """A free slot, if there is one: the one used last, which is in the processor's cache and in memory."""
        return self._free.pop() if self._free else None

    @contextmanager
    def lent(self, slot: int | None) -> Iterator[None]:
        """Within the block the first large `empty` of this thread lies in `slot`; `dumps` the result in the block."""
        self._lent, self._given = slot, None
        token = _lender.set(self)
        try:
            yield
        finally:
            _lender.reset(token)
            self._lent = self._given = None

    def give(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
        """An array in the slot that is lent, or None; no slot is given twice."""
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        if self._lent is None or self._given is not None or not SMALL_BYTES < num_bytes <= self._slot_bytes:
            return None
        self._given = self._array(self._lent, dtype.str, shape)
        return self._given

    def dumps(self, result: Any, slot: int | None) -> bytes:
        """Pickle a result; its first large tensor that fits goes into the slot."""
        buffer = BytesIO()
        _Pickler(buffer, self, slot).dump(result)
        return buffer.getvalue()

    def loads(self, message: bytes, slot: int | None) -> Any:
        """The result; `slot` is free again when nothing of it is in use any more."""
        unpickler = _Unpickler(BytesIO(message), self, slot)
        result = unpickler.load()
        if slot is not None and not unpickler.used:
            self._free.append(slot)
        return result

    def put(self, tensor: torch.Tensor, slot: int) -> tuple[str, tuple[int, ...]] | None:
        """Copy a tensor into a slot; returns what `get` needs, or None where it does not fit."""
        if tensor.nbytes > self._slot_bytes:
            return None
        array = tensor.numpy()
        place = self._array(slot, array.dtype.str, array.shape)
        if self._given is None:
            place[...] = array
        elif array.ctypes.data != place.ctypes.data or array.strides != place.strides:
            return None  # the slot holds something else of this result
        return array.dtype.str, array.shape

    def get(self, slot: int, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor that lives in a slot."""
        array = self._array(slot, dtype, shape)
        # torch holds on to the array as long as any tensor needs its memory
        weakref.finalize(array, self._free.append, slot).atexit = False
        return torch.from_numpy(array)

    def _array(self, slot: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.ndarray(shape, dtype, self._memory, slot * self._slot_bytes)


class _Pickler(ForkingPickler):
    def __init__(self, buffer: BytesIO, slots: Slots, slot: int | None) -> None:
        super().__init__(buffer)
        self._slots = slots
        self._slot = slot

    def persistent_id(self, value: Any) -> Any:
        if self._slot is None or not _is_large(value):
            return None
        found = self._slots.put(value, self._slot)
        if found is not None:
            self._slot = None
        return found

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.nbytes <= SMALL_BYTES:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: BytesIO, slots: Slots, slot: int | None) -> None:
        super().__init__(buffer)
        self._slots = slots
        self._slot = slot
        self.used = False

    def persistent_load(self, found: Any) -> torch.Tensor:
        assert self._slot is not None, "a worker was told of the slot"
        self.used = True
        return self._slots.get(self._slot, *found)


def _is_large(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.nbytes > SMALL_BYTES
