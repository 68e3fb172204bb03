// CRC-32 as zlib's: the checksum of logits that the attention worker sends with each token.
#pragma once
#include <cstddef>
#include <cstdint>

namespace caracal {

uint32_t crc32(const void* data, std::size_t bytes);

}  // namespace caracal
