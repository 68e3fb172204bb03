#include "crc32.h"

#include <immintrin.h>

#include <array>
#include <cstring>

namespace caracal {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;  // reflected

constexpr std::array<uint32_t, 256> table() {
  std::array<uint32_t, 256> by_byte{};
  for (uint32_t n = 0; n < 256; ++n) {
    uint32_t crc = n;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
    by_byte[n] = crc;
  }
  return by_byte;
}

constexpr std::array<uint32_t, 256> kTable = table();

uint32_t by_table(uint32_t crc, const uint8_t* at, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) crc = crc >> 8 ^ kTable[(crc ^ at[i]) & 255];
  return crc;
}

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

#define CARACAL_FOLDING __attribute__((target("pclmul,sse4.1")))

template <int Bytes>
CARACAL_FOLDING inline __m128i folded(__m128i state, __m128i next) {
  const __m128i factors = _mm_set_epi32(0, static_cast<int>(kUpper<Bytes>), 0, static_cast<int>(kLower<Bytes>));
  const __m128i lower = _mm_clmulepi64_si128(state, factors, 0x00), upper = _mm_clmulepi64_si128(state, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(lower, upper), next);
}

inline __m128i load(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }

constexpr std::size_t kRegisters = 8, kRound = 16 * kRegisters;

// Takes whole rounds off the front; there is at least one.
CARACAL_FOLDING uint32_t by_folding(uint32_t crc, const uint8_t*& at, std::size_t& left) {
  __m128i state[kRegisters];
  for (std::size_t i = 0; i < kRegisters; ++i) state[i] = load(at + 16 * i);
  state[0] = _mm_xor_si128(state[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  for (at += kRound, left -= kRound; left >= kRound; at += kRound, left -= kRound)
    for (std::size_t i = 0; i < kRegisters; ++i) state[i] = folded<kRound>(state[i], load(at + 16 * i));
  for (std::size_t i = 1; i < kRegisters; ++i) state[i] = folded<16>(state[i - 1], state[i]);
  uint8_t rest[16];
  std::memcpy(rest, &state[kRegisters - 1], sizeof rest);
  return by_table(0, rest, sizeof rest);
}

}  // namespace

uint32_t crc32(const void* data, std::size_t bytes, uint32_t so_far) {
  static const bool folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  const auto* at = static_cast<const uint8_t*>(data);
  uint32_t crc = ~so_far;
  if (folds && bytes >= kRound) crc = by_folding(crc, at, bytes);
  return ~by_table(crc, at, bytes);
}

}  // namespace caracal
