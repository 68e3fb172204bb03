#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace caracal::wire {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected

// One instruction has a latency of three cycles and starts every cycle: three runs side by side use it fully.
constexpr size_t kLong = 1024, kShort = 128;

struct Tables {
  std::array<uint32_t, 256> byte;
  // The register after kLong or kShort zero bytes, by each of its four bytes.
  uint32_t over_long[4][256], over_short[4][256];

  Tables() {
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t crc = n;
      for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
      byte[n] = crc;
    }
    fill(over_long, kLong);
    fill(over_short, kShort);
  }

  void fill(uint32_t (&over)[4][256], size_t zeros) const {
    for (int place = 0; place < 4; ++place) {
      over[place][0] = 0;
      for (uint32_t bit = 0; bit < 8; ++bit) {
        uint32_t crc = 1u << (8 * place + bit);
        for (size_t i = 0; i < zeros; ++i) crc = crc >> 8 ^ byte[crc & 255];
        // The register is linear in its bits.
        for (uint32_t low = 0; low < 1u << bit; ++low) over[place][(1u << bit) + low] = over[place][low] ^ crc;
      }
    }
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

#if defined(__x86_64__)
uint32_t shifted(const uint32_t (&over)[4][256], uint32_t crc) {
  return over[0][crc & 255] ^ over[1][crc >> 8 & 255] ^ over[2][crc >> 16 & 255] ^ over[3][crc >> 24];
}

uint64_t word(const char* at) {
  uint64_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <size_t Block>
__attribute__((target("sse4.2"))) uint32_t three_runs(const uint32_t (&over)[4][256], uint32_t crc, const char*& at,
                                                      size_t& left) {
  while (left >= 3 * Block) {
    uint64_t first = crc, second = 0, third = 0;
    for (size_t i = 0; i < Block; i += 8) {
      first = _mm_crc32_u64(first, word(at + i));
      second = _mm_crc32_u64(second, word(at + Block + i));
      third = _mm_crc32_u64(third, word(at + 2 * Block + i));
    }
    crc = shifted(over, static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second);
    crc = shifted(over, crc) ^ static_cast<uint32_t>(third);
    at += 3 * Block;
    left -= 3 * Block;
  }
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t by_instruction(uint32_t crc, const char* at, size_t left) {
  crc = three_runs<kLong>(tables().over_long, crc, at, left);
  crc = three_runs<kShort>(tables().over_short, crc, at, left);
  uint64_t wide = crc;
  for (; left >= 8; at += 8, left -= 8) wide = _mm_crc32_u64(wide, word(at));
  crc = static_cast<uint32_t>(wide);
  for (; left; ++at, --left) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*at));
  return crc;
}

// As in kernels/caracal_kernels/cpu/crc32.cpp, and not shared: this core is also built by itself, with no path into another package.
// x^power modulo the polynomial, reflected.
constexpr uint32_t power_of_x(int power) {
  uint32_t value = 1u << 31;
  for (; power; --power) value = value & 1 ? value >> 1 ^ kPolynomial : value >> 1;
  return value;
}

// Moving 128 bits forward by `Bytes` is two carry-less products, with these factors for the lower and the upper half.
template <int Bytes>
constexpr uint32_t kLower = power_of_x(8 * Bytes + 31);
template <int Bytes>
constexpr uint32_t kUpper = power_of_x(8 * Bytes - 33);

#define CARACAL_FOLDING __attribute__((target("avx512f,avx512dq,vpclmulqdq,pclmul,sse4.2")))

template <int Bytes>
CARACAL_FOLDING inline __m512i folded(__m512i state, __m512i next) {
  const __m512i factors = _mm512_set4_epi32(0, static_cast<int>(kUpper<Bytes>), 0, static_cast<int>(kLower<Bytes>));
  const __m512i lower = _mm512_clmulepi64_epi128(state, factors, 0x00), upper = _mm512_clmulepi64_epi128(state, factors, 0x11);
  return _mm512_ternarylogic_epi64(lower, upper, next, 0x96);  // the sum of the three
}

CARACAL_FOLDING inline __m128i folded(__m128i state, __m128i next) {
  const __m128i factors = _mm_set_epi32(0, static_cast<int>(kUpper<16>), 0, static_cast<int>(kLower<16>));
  const __m128i lower = _mm_clmulepi64_si128(state, factors, 0x00), upper = _mm_clmulepi64_si128(state, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(lower, upper), next);
}

constexpr size_t kFolded = 256;  // bytes of a round, in four registers

// Takes whole rounds off the front; there is at least one.
CARACAL_FOLDING uint32_t by_folding(uint32_t crc, const char*& at, size_t& left) {
  __m512i state[4];
  for (int i = 0; i < 4; ++i) state[i] = _mm512_loadu_si512(at + 64 * i);
  state[0] = _mm512_xor_si512(state[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crc))));
  for (at += kFolded, left -= kFolded; left >= kFolded; at += kFolded, left -= kFolded) {
    for (int i = 0; i < 4; ++i) state[i] = folded<kFolded>(state[i], _mm512_loadu_si512(at + 64 * i));
  }
  for (int i = 1; i < 4; ++i) state[i] = folded<64>(state[i - 1], state[i]);
  __m128i last = _mm512_extracti64x2_epi64(state[3], 0);
  last = folded(last, _mm512_extracti64x2_epi64(state[3], 1));
  last = folded(last, _mm512_extracti64x2_epi64(state[3], 2));
  last = folded(last, _mm512_extracti64x2_epi64(state[3], 3));
  const uint64_t half = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(last)));
  return static_cast<uint32_t>(_mm_crc32_u64(half, static_cast<uint64_t>(_mm_extract_epi64(last, 1))));
}

bool can_fold() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("vpclmulqdq");
}
#endif

}  // namespace

uint32_t crc32c_table(uint32_t so_far, const void* data, size_t bytes) {
  uint32_t crc = ~so_far;
  const auto* at = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) crc = crc >> 8 ^ tables().byte[(crc ^ at[i]) & 255];
  return ~crc;
}

uint32_t crc32c(uint32_t so_far, const void* data, size_t bytes) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  static const bool folds = has_instruction && can_fold();
  const char* at = static_cast<const char*>(data);
  uint32_t crc = ~so_far;
  if (folds && bytes >= kFolded) crc = by_folding(crc, at, bytes);
  if (has_instruction) return ~by_instruction(crc, at, bytes);
#endif
  return crc32c_table(so_far, data, bytes);
}

}  // namespace caracal::wire
