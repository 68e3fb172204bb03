"""Converts torch.Tensor to and from Tensor messages: raw values, row-major, little-endian, with a CRC-32."""

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

# Nothing writes to a view of received bytes, so the copy that torch suggests would be wasted.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)


class TensorError(ValueError):
    """A Tensor message whose dtype, shape and data contradict each other."""


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's values as bytes; `tensor` must be on the CPU."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.numel() else b""


def dtype_name(dtype: torch.dtype) -> tensor_pb2.DType.ValueType:
    """The name of a dtype in messages. Raises TensorError for a dtype without one."""
    name = _NAMES.get(dtype)
    if name is None:
        raise TensorError(f"{dtype} cannot be sent")
    return name


def view(data: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A read-only tensor over received bytes, which it keeps alive. Raises TensorError."""
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise TensorError(f"shape {list(shape)} of {dtype} needs {wanted} bytes, the message carries {len(data)}")
    return torch.frombuffer(data, dtype=dtype).view(shape) if wanted else torch.empty(shape, dtype=dtype)


def decode(message: tensor_pb2.Tensor) -> torch.Tensor:
    """The tensor of a message: a read-only view of the message's bytes, to be copied before it is written to.

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
