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

// Whether `bytes` of float32 or bfloat16 values are neither infinite nor NaN; `data` is aligned for them.
bool all_finite(const char* data, size_t bytes, uint32_t dtype);

}  // namespace caracal::wire
