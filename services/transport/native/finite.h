// Whether a reply's values are finite.
#pragma once
#include <cstddef>
#include <cstdint>

namespace caracal::wire {

enum class DType : uint32_t { kFloat32 = 1, kBFloat16 = 2, kFloat8E4M3 = 6 };  // the numbers of tensor.proto

// Bytes of one value; 0 for a dtype in which no rows are sent.
inline size_t bytes_of(uint32_t dtype) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat32: return 4;
    case DType::kBFloat16: return 2;
    case DType::kFloat8E4M3: return 1;
  }
  return 0;
}

// An exponent of ones means infinity or NaN. Written so that the compiler takes many values at a time.
template <class Word>
bool all_below(const char* data, size_t count, Word exponent) {
  const Word* values = reinterpret_cast<const Word*>(data);
  Word bad = 0;
  for (size_t i = 0; i < count; ++i) bad |= static_cast<Word>((values[i] & exponent) == exponent);
  return bad == 0;
}

// Of `bytes` of float32 or bfloat16 values; `data` is aligned for them.
inline bool all_finite(const char* data, size_t bytes, uint32_t dtype) {
  if (static_cast<DType>(dtype) == DType::kBFloat16) return all_below<uint16_t>(data, bytes / 2, 0x7F80);
  return all_below<uint32_t>(data, bytes / 4, 0x7F800000);
}

}  // namespace caracal::wire
