"""torch.Tensor <-> Tensor message. Values travel as they lie in memory: row-major, little-endian, checked by CRC-32."""

import ctypes
import math
import warnings
import zlib

import torch

from caracal_proto import tensor_pb2

_DTYPES: dict[tensor_pb2.DType.ValueType, torch.dtype] = {
    tensor_pb2.FLOAT32: torch.float32,
    tensor_pb2.BFLOAT16: torch.bfloat16,
    tensor_pb2.INT32: torch.int32,
    tensor_pb2.INT64: torch.int64,
    tensor_pb2.UINT8: torch.uint8,
    tensor_pb2.FLOAT8_E4M3: torch.float8_e4m3fn,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert set(_DTYPES) == set(tensor_pb2.DType.values()) - {tensor_pb2.DTYPE_UNSPECIFIED}, "a dtype without a codec"

# Views of received bytes are read-only by contract, so the copy that torch suggests would be wasted.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)


class TensorError(ValueError):
    """A Tensor message that does not describe its own bytes."""


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's values as bytes; `tensor` must be on the CPU."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.numel() else b""


def encode(tensor: torch.Tensor) -> tensor_pb2.Tensor:
    """Any CPU tensor as a message."""
    return tensor_pb2.Tensor(data=raw_bytes(tensor), shape=tensor.shape, dtype=_NAMES[tensor.dtype])


def dtype_name(dtype: torch.dtype) -> tensor_pb2.DType.ValueType:
    """What a message calls the dtype. Raises TensorError for one that does not travel."""
    name = _NAMES.get(dtype)
    if name is None:
        raise TensorError(f"{dtype} does not travel")
    return name


def view(data: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A read-only tensor over bytes that were received; the bytes stay alive with it. Raises TensorError."""
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise TensorError(f"shape {list(shape)} of {dtype} needs {wanted} bytes, the message carries {len(data)}")
    return torch.frombuffer(data, dtype=dtype).view(shape) if wanted else torch.empty(shape, dtype=dtype)


def decode(message: tensor_pb2.Tensor) -> torch.Tensor:
    """The tensor a message describes: a read-only view of the message's bytes, to be copied before it is written to.

    Raises TensorError when dtype, shape and length contradict each other; nothing is allocated before that check.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise TensorError(f"unknown dtype {message.dtype}")
    shape = tuple(message.shape)
    if any(size < 0 for size in shape):
        raise TensorError(f"negative size in shape {list(shape)}")
    return view(message.data, shape, dtype)


def checksum(data: bytes) -> int:
    """CRC-32 of a payload."""
    return zlib.crc32(data)
