// CRC32C (Castagnoli), by carry-less products or the CPU's own instruction where it has them. Every frame's header and body carry it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace caracal::wire {

// The checksum of `bytes` at `data`, going on from the checksum `so_far` of what came before (0 at the start).
uint32_t crc32c(uint32_t so_far, const void* data, size_t bytes);

// The same by table: the oracle of the tests, and the body on CPUs without either.
uint32_t crc32c_table(uint32_t so_far, const void* data, size_t bytes);

}  // namespace caracal::wire
