// CRC-32 as zlib's: the checksum of logits that the attention worker sends with each token, and of weights as they are read.
#pragma once
#include <cstddef>
#include <cstdint>

namespace caracal {

// Goes on from the checksum `so_far` of what came before.
uint32_t crc32(const void* data, std::size_t bytes, uint32_t so_far = 0);

}  // namespace caracal
