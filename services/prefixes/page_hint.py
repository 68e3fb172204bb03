"""What a worker tells routers of its cached pages, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

from services.membership.checks import is_text
from services.prefixes.page_filter import MOST_BYTES, PageFilter

MAX_HINT_BYTES = MOST_BYTES + 1024
MAX_DIGITS = 18  # of a number


@dataclass(frozen=True, slots=True)
class PageHint:
    """What one run of a worker has cached. `version` ascends with every change."""

    boot_id: str
    page_size: int  # tokens
    version: int
    pages: PageFilter

    @classmethod
    def from_bytes(cls, data: bytes) -> PageHint:
        """Raises ValueError when it is none."""
        if len(data) > MAX_HINT_BYTES:
            raise ValueError(f"longer than {MAX_HINT_BYTES} bytes")
        head, _, bits = data.partition(b"\n")
        boot_id, *numbers = head.decode().split(" ")
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) <= MAX_DIGITS for n in numbers):
            raise ValueError("it does not begin with a boot id, a page size and a version")
        page_size, version = map(int, numbers)
        if not (boot_id and is_text(boot_id) and 0 < page_size < 1 << 20):
            raise ValueError("its boot id is not printable, or its page size is out of range")
        return cls(boot_id, page_size, version, PageFilter.read(bits))

    def to_bytes(self) -> bytes:
        return f"{self.boot_id} {self.page_size} {self.version}\n".encode() + self.pages.bits
