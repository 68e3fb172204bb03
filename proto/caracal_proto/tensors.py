"""torch.Tensor <-> Tensor message. Values travel as they lie in memory: row-major, little-endian, checked by CRC-32."""

import math
import zlib

import torch

from caracal_proto import tensor_pb2

_DTYPES: dict[tensor_pb2.DType.ValueType, torch.dtype] = {
    tensor_pb2.FLOAT32: torch.float32,
    tensor_pb2.BFLOAT16: torch.bfloat16,
    tensor_pb2.INT32: torch.int32,
    tensor_pb2.INT64: torch.int64,
    tensor_pb2.UINT8: torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert set(_DTYPES) == set(tensor_pb2.DType.values()) - {tensor_pb2.DTYPE_UNSPECIFIED}, "a dtype without a codec"


class TensorError(ValueError):
    """A Tensor message that does not describe its own bytes."""


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's values as bytes; `tensor` must be on the CPU."""
    return bytes(tensor.contiguous().view(torch.uint8).numpy().data) if tensor.numel() else b""


def encode(tensor: torch.Tensor) -> tensor_pb2.Tensor:
    """Any CPU tensor as a message."""
    return tensor_pb2.Tensor(data=raw_bytes(tensor), shape=tensor.shape, dtype=_NAMES[tensor.dtype])


def decode(message: tensor_pb2.Tensor) -> torch.Tensor:
    """The tensor a message describes: a read-only view of the message's bytes, to be copied before it is written to.

    Raises TensorError when dtype, shape and length contradict each other; nothing is allocated before that check.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise TensorError(f"unknown dtype {message.dtype}")
    shape = list(message.shape)
    if any(size < 0 for size in shape):
        raise TensorError(f"negative size in shape {shape}")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(message.data):
        raise TensorError(f"shape {shape} of {dtype} needs {wanted} bytes, the message carries {len(message.data)}")
    if wanted == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memoryview(message.data), dtype=dtype).view(shape)


def checksum(data: bytes) -> int:
    """CRC-32 of a payload."""
    return zlib.crc32(data)
