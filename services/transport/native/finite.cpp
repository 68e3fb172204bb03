#include "finite.h"

namespace caracal::wire {
namespace {

// An exponent of ones means infinity or NaN. Written so that the compiler takes many values at a time.
template <class Word>
inline __attribute__((always_inline)) bool none_is(const char* data, size_t count, Word exponent) {
  const Word* values = reinterpret_cast<const Word*>(data);
  Word bad = 0;
  for (size_t i = 0; i < count; ++i) bad |= static_cast<Word>((values[i] & exponent) == exponent);
  return bad == 0;
}

inline __attribute__((always_inline)) bool check(const char* data, size_t bytes, uint32_t dtype) {
  if (static_cast<DType>(dtype) == DType::kBFloat16) return none_is<uint16_t>(data, bytes / 2, 0x7F80);
  return none_is<uint32_t>(data, bytes / 4, 0x7F800000);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) bool check_avx2(const char* data, size_t bytes, uint32_t dtype) {
  return check(data, bytes, dtype);
}
#endif

}  // namespace

bool all_finite(const char* data, size_t bytes, uint32_t dtype) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return check_avx2(data, bytes, dtype);
#endif
  return check(data, bytes, dtype);
}

}  // namespace caracal::wire
