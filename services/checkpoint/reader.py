"""Reads a Hugging Face model directory by slices; its content is never trusted. Tensor names are in tensors.py.

Opening reads config.json, the index and the safetensors headers. Every tensor that the config requires is checked
(presence, shape, dtype, bounds) before the first weight is read; values are checked for NaN and infinity when read.
Weights are copied, never memory-mapped: a file that changes under a serving worker changes no answer.
Legend: N outputs and K inputs of a matrix, n and k their counts of fp8 blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol, Self

import torch
from caracal_kernels import joined_crc32
from torch import Tensor

from services.checkpoint.checksum_file import NAME as KEPT
from services.checkpoint.checksum_file import ChecksumFile
from services.checkpoint.checksums import Checksums, Part
from services.checkpoint.config import ModelConfig
from services.checkpoint.config_file import read_config
from services.checkpoint.device import CPU
from services.checkpoint.errors import CheckpointError
from services.checkpoint.fp8 import FP8_NAME, SCALE_SUFFIX, dequantize
from services.checkpoint.garbage import without_collections
from services.checkpoint.quantization import BLOCK
from services.checkpoint.safetensors import Stored, bad_tensor, reading, stored_tensors
from services.checkpoint.sampled_digest import digest_of, sample, sampled
from services.checkpoint.scrub import memory_checksum
from services.checkpoint.shared_tables import SharedTables, TableShape
from services.checkpoint.staging import Staging
from services.checkpoint.tensor_checks import check_tensors, draft_violation, is_fused, stored_dtype
from services.checkpoint.tensors import (
    EMBEDDING,
    OWN_HEAD,
    attention_tensors,
    expert_matrices,
    fused_experts,
    ngram_tables,
)

HOST = Staging(CPU)
_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, FP8_NAME: torch.float8_e4m3fn}
_FINITE_CHUNK = 1 << 24
_CHECKED_ROWS = 64  # of a table that another process has made
_TABLE_CHUNK = 1 << 25  # values of a table that are read at a time


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The weights of one FFN expert. Legend: D hidden size, F inner width; in gate_up the gate rows come first.

    Scales are set when the weights are in fp8: [2 * (F/128), D/128] and [D/128, F/128], each rounded up.
    """

    gate_up_2FD: Tensor
    down_DF: Tensor
    gate_up_scale: Tensor | None = None
    down_scale: Tensor | None = None


class Slices(Protocol):
    """Files of the full size whose bytes come when they are needed. `digest`: that of the whole checkpoint."""

    digest: str

    def ensure(self, file: Path, begin: int, end: int) -> None:
        """Makes the bytes [begin, end) readable. Raises OSError."""
        ...


class Checkpoint:
    """A checked model directory; threads may share it. `open` raises CheckpointError.

    `no_drafts`: why it cannot draft tokens, in words; empty when it can. `samples`: CRC-32 of the first and last bytes
    of each of `sampled_names`.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        stored: dict[str, Stored],
        no_drafts: str,
        slices: Slices | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.no_drafts = no_drafts
        self._stored = stored
        self._slices = slices
        self.digest, self.samples = digest_of(config, stored) if slices is None else (slices.digest, ())
        self.checksums = Checksums()  # of the bytes that were read, of n-gram tables of those that are used
        self._tables = {name for name, _ in ngram_tables(config)}
        with reading(path):
            self._kept = ChecksumFile(path, {where.file for where in stored.values()})

    @classmethod
    def open(cls, path: Path, slices: Slices | None = None) -> Self:
        """`slices`: where the directory has only the headers of its weights, what fetches the rest."""
        if not path.is_dir():
            raise CheckpointError(f"{path}: is not a directory")
        config, quantization = read_config(path / "config.json")
        with without_collections():
            stored = stored_tensors(path)
            check_tensors(path, config, quantization, stored)
            no_drafts = draft_violation(path, config, quantization, stored)
        config = replace(config, torch_dtype=config.torch_dtype or stored_dtype(config, stored))
        found = cls(path, config, stored, no_drafts, slices)
        found._check_tied_head()
        return found

    def names(self) -> list[str]:
        """The names of all tensors in the files, also of those that nothing reads."""
        return sorted(self._stored)

    def tensor(self, name: str, dtype: torch.dtype, to: Staging = HOST, rows: range | None = None) -> Tensor:
        """Reads one tensor in `dtype` into the memory of `to`'s device; fp8 weights are dequantized.

        Only the bytes of `rows` are read (in fp8, of their blocks). Raises CheckpointError for values not finite in
        `dtype`.
        """
        where = self._stored[name]
        if where.dtype == FP8_NAME:
            tensor = self._dequantized(name, dtype, to, range(where.shape[0]) if rows is None else rows)
        else:
            tensor = self._read(name, to, rows).to(dtype)
        small = tensor.numel() <= _FINITE_CHUNK
        parts = (tensor,) if small else torch.split(tensor.view(-1), _FINITE_CHUNK)
        if not all(bool(part.isfinite().all()) for part in parts):
            raise bad_tensor(
                self._stored[name].file.name, name, f"holds NaN, infinity, or values too large for {str(dtype)[6:]}"
            )
        return tensor

    def ngram_tables(self, folder: Path) -> SharedTables:
        """Takes or makes the machine's copy of the n-gram tables, in the dtype they are stored in.

        All bytes of the copy have a checksum, whoever made it: what counts is what will be read. Raises
        CheckpointError, also when the folder has no room for them.
        """
        named = list(ngram_tables(self.config))
        files = sorted({self._stored[name].file for name, _ in named})
        seen = [(str(file.resolve()), *_identity(file)) for file in files]
        kinds = {self._stored[name].dtype for name, _ in named}
        dtype = _DTYPES[kinds.pop()] if len(kinds) == 1 else torch.float32
        shapes = [TableShape(*shape) for _, shape in named]

        def fill(table: int, into_RW: Tensor) -> None:
            name, (rows, width) = named[table]
            step = max(1, _TABLE_CHUNK // width)
            for begin in range(0, rows, step):
                part = range(begin, min(rows, begin + step))
                into_RW[part.start : part.stop] = self.tensor(name, dtype, HOST, part)

        def check(tables: list[Tensor]) -> bool:
            """Compares some rows of each table, evenly spaced; the last is one of them."""
            for (name, (rows, _)), table_RW in zip(named, tables, strict=True):
                step = max(1, rows // _CHECKED_ROWS)
                for row in (*range(0, rows, step), rows - 1):
                    if not torch.equal(table_RW[row : row + 1], self.tensor(name, dtype, HOST, range(row, row + 1))):
                        return False
            return True

        shared = SharedTables.open(folder, f"{self.digest} {seen}", shapes, dtype, fill, check)
        for (name, _), table_RW in zip(named, shared.tables, strict=True):
            if dtype == _DTYPES[self._stored[name].dtype]:  # the bytes are those of the file
                self._note_table(name, memory_checksum([table_RW]), f"its copy {shared.path}")
        return shared

    def is_fused(self, layer: int) -> bool:
        """Whether the layer's experts lie in two tensors instead of three for each."""
        return is_fused(self.config, self._stored, layer)

    def is_fp8(self, name: str) -> bool:
        """Whether a tensor is stored in fp8."""
        return self._stored[name].dtype == FP8_NAME

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, as it is stored."""
        return self._stored[name].shape

    def fp8(self, name: str, to: Staging = HOST, rows: range | None = None) -> tuple[Tensor, Tensor] | None:
        """Reads (e4m3 weight, fp32 scales); None for a tensor that is not stored in fp8. Raises CheckpointError.

        Of `rows`, scales of every block that has some of them.
        """
        where = self._stored[name]
        if where.dtype != FP8_NAME:
            return None
        rows = range(where.shape[0]) if rows is None else rows
        scale_nk = self._scales(name, to, _blocks(rows))
        stored_NK = self._read(name, to, rows)
        if bool((stored_NK.view(torch.uint8) & 0x7F == 0x7F).any()):  # e4m3 has one NaN of each sign and no infinity
            raise bad_tensor(where.file.name, name, "holds NaN")
        return stored_NK, scale_nk

    def file_of(self, name: str) -> str:
        """The name of the file that has a tensor."""
        return self._stored[name].file.name

    def sampled_names(self) -> list[str]:
        """The tensors whose ends count in `digest`, in order."""
        return sampled(self._stored)

    def keep_checksums(self) -> bool:
        """Writes the checksums of what was read beside the checkpoint; returns whether they are there now."""
        return self._kept.save(*self.checksums.take_news(), self.file_of)

    def expert_names(self, layer: int, expert: int) -> list[tuple[str, range | None]]:
        """The tensors of one FFN expert, scales too, and which of their rows."""
        if self.is_fused(layer):
            return [(name, range(expert, expert + 1)) for name, _ in fused_experts(self.config, layer)]
        return [(each, None) for name in expert_matrices(layer, expert) for each in self._with_scales(name)]

    def attention_names(self) -> list[str]:
        """The tensors that decide the bits of an attention worker, scales too."""
        named = chain(attention_tensors(self.config), ngram_tables(self.config))
        return [each for name, _ in named for each in self._with_scales(name)]

    def checksum(self, name: str, rows: range | None = None) -> int:
        """The CRC-32 of a tensor's bytes, or of some rows', as they were read, in parts if need be.

        What was not read, or in parts that overlap, is read now. Raises CheckpointError.
        """
        _, part, size = self._place(name, rows)
        found = self.checksums.of(name, part, size)
        if found is None and rows is None and name in self._tables:
            return self._table_checksum(name)
        return self._read_checked(name, HOST, rows)[1] if found is None else found

    def _place(self, name: str, rows: range | None) -> tuple[Stored, Part, int]:
        """Where some rows are stored, which part of the tensor that is, and how large the tensor is."""
        whole = self._stored[name]
        where = whole if rows is None else whole.part(rows)
        return where, (where.begin - whole.begin, where.end - whole.begin), whole.end - whole.begin

    def _with_scales(self, name: str) -> tuple[str, ...]:
        return (name, name + SCALE_SUFFIX) if self.is_fp8(name) else (name,)

    def _check_tied_head(self) -> None:
        """Raises CheckpointError for a head of its own that config.json says there is none of."""
        head = self._stored.get(OWN_HEAD)
        if head is None or not self.config.tie_word_embeddings:
            return
        for where in (head, self._stored[EMBEDDING]):
            self._ensure(where)
        samples = [sample(where) for where in (head, self._stored[EMBEDDING])]
        if head.shape != self._stored[EMBEDDING].shape or samples[0] != samples[1]:
            raise bad_tensor(head.file.name, OWN_HEAD, "is not the embedding, and config.json says tie_word_embeddings")

    def _ensure(self, where: Stored, name: str = "") -> None:
        if self._slices is not None:
            with reading(where.file, name):
                self._slices.ensure(where.file, where.begin, where.end)

    def _scales(self, weight: str, to: Staging, blocks: range) -> Tensor:
        name = weight + SCALE_SUFFIX
        scale_nk = self._read(name, to, blocks)
        if not bool(((scale_nk > 0) & scale_nk.isfinite()).all()):
            raise bad_tensor(self._stored[name].file.name, name, "holds scales that are not positive numbers")
        return scale_nk

    def _dequantized(self, name: str, dtype: torch.dtype, to: Staging, rows: range) -> Tensor:
        blocks = _blocks(rows)
        around = range(blocks.start * BLOCK, min(blocks.stop * BLOCK, self._stored[name].shape[0]))
        scale_nk = self._scales(name, to, blocks)
        whole_NK = dequantize(self._read(name, to, around), scale_nk, dtype)
        return whole_NK[rows.start - around.start : rows.stop - around.start]

    def _read(self, name: str, to: Staging, rows: range | None) -> Tensor:
        where = self._place(name, rows)[0]
        return self._read_checked(name, to, rows)[0].view(_DTYPES[where.dtype]).view(where.shape)

    def _read_checked(self, name: str, to: Staging, rows: range | None) -> tuple[Tensor, int]:
        """The bytes of a tensor or of some rows, and their CRC-32. Raises CheckpointError for what is not as kept."""
        where, part, size = self._place(name, rows)
        count = where.end - where.begin
        self._ensure(where, name)
        with reading(where.file, name), where.file.open("rb") as stream:
            stream.seek(where.begin)
            raw, checksum = to.read(stream, count)
        if len(raw) != count:
            raise bad_tensor(where.file.name, name, f"truncated since it was opened: {len(raw)} of {count} bytes")
        if name not in self._tables:  # which have one checksum each, and are read row by row
            self._note(name, part, size, checksum, "what was read of it")
        return raw, checksum

    def _note(self, name: str, part: Part, size: int, checksum: int, read: str) -> None:
        """Takes a checksum; `read`: what else it is of, in words. Raises CheckpointError for another than was kept."""
        if (known := self._kept.known(name, part, size)) not in (None, checksum):
            why = f"its bytes have the CRC-32 {checksum:08x}, and had {known:08x} when {KEPT} was written"
            raise bad_tensor(self._stored[name].file.name, name, f"{why}: the file, or {read}, is damaged")
        self.checksums.note(name, part, size, checksum)

    def _note_table(self, name: str, checksum: int, read: str) -> None:
        size = self._place(name, None)[2]
        self._note(name, (0, size), size, checksum, read)

    def _table_checksum(self, name: str) -> int:
        """Reads an n-gram table, which may be larger than what memory has left, in parts. Raises CheckpointError."""
        rows, width = self._stored[name].shape
        step, checksum = max(1, _TABLE_CHUNK // width), 0
        for begin in range(0, rows, step):
            raw, one = self._read_checked(name, HOST, range(begin, min(rows, begin + step)))
            checksum = joined_crc32(checksum, one, len(raw))
        self._note_table(name, checksum, "what was read of it")
        return checksum


def load_expert(
    checkpoint: Checkpoint, layer: int, expert: int, dtype: torch.dtype, to: Staging = HOST, keep_fp8: bool = False
) -> ExpertWeights:
    """Reads one expert in `dtype`; with `keep_fp8` in fp8 if all of it is stored so. Raises CheckpointError."""
    if checkpoint.is_fused(layer):
        rows = range(expert, expert + 1)
        one = [checkpoint.tensor(name, dtype, to, rows)[0] for name, _ in fused_experts(checkpoint.config, layer)]
        return ExpertWeights(*one)
    names = expert_matrices(layer, expert)
    if keep_fp8:
        stored = [each for name in names if (each := checkpoint.fp8(name, to)) is not None]
        if len(stored) == len(names):
            (gate, gate_scale), (up, up_scale), (down, down_scale) = stored
            return ExpertWeights(torch.cat([gate, up]), down, torch.cat([gate_scale, up_scale]), down_scale)
    gate, up, down = (checkpoint.tensor(name, dtype, to) for name in names)
    return ExpertWeights(torch.cat([gate, up]), down)


def _blocks(rows: range) -> range:
    return range(rows.start // BLOCK, -(-rows.stop // BLOCK))


def _identity(file: Path) -> tuple[int, ...]:
    """Changes when the file does, also when it is written in place and its time of modification is set back."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
