// Products with weights that stay in fp8 (e4m3): a block becomes bf16 in the first cache, then it is multiplied as any
// packed block is. A value is round(code * scale), as services/checkpoint/fp8.py dequantizes it: the bits of a product are
// those of the dequantized matrix.
//
// A block has 64 columns and 128 inputs. Its scale comes first, so that memory is read in one direction; then, for every
// step of 2 inputs, 128 codes. Of them 64 belong to two panels, 8 codes of the one and 8 of the other in turn: unpacking
// the low and the high bytes of 16 codes gives each panel's values side by side.
#pragma once
#include "matrix.h"

namespace caracal {
namespace {

struct Magnitudes {
  alignas(64) float of[128];
};

// The values of the codes without a sign. The last is NaN in e4m3, and refused where weights are read.
constexpr Magnitudes magnitudes() {
  Magnitudes found{};
  for (int code = 0; code < 128; ++code) {
    const int exponent = code / 8;
    float value = static_cast<float>(exponent ? 8 + code % 8 : code % 8);
    for (int i = std::max(exponent, 1); i < 10; ++i) value /= 2;
    for (int i = 10; i < exponent; ++i) value *= 2;
    found.of[code] = value;
  }
  return found;
}

constexpr Magnitudes kMagnitudes = magnitudes();
constexpr int kNormal = 8, kLargest = 126;  // the smallest code that is no denormal; the largest number

inline float scale_of(const uint8_t* block) {
  float scale;
  std::memcpy(&scale, block, sizeof scale);
  return scale;
}

// The values of the first `count` codes.
inline void values_of(float scale, int count, bf16* out) {
  for (int i = 0; i < count; i += Simd::lanes)
    Simd::store(out + i, Simd::mul(Simd::load(kMagnitudes.of + i), Simd::set(scale)));
}

// Where 32 codes of two panels go to, 16 of each: values 0 to 15 of the first at `out`, of the second at `out + 32`.
inline void convert_any(const uint8_t* codes, const bf16* values, bf16* out) {
  for (int i = 0; i < 32; ++i)
    out[i / 8 % 2 * 32 + i / 16 * 8 + i % 8] = static_cast<bf16>(values[codes[i] & 0x7f] | (codes[i] & 0x80) << 8);
}

// Scales that make no denormal of a code that is none, and no infinity, only add to the exponent: 16 values are enough,
// those of the denormal codes, and those of the smallest exponent, from which that exponent is taken off.
inline void convert_normal(const uint8_t* codes, __m256i low, __m256i high, bf16* out) {
  const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), zero = _mm256_setzero_si256();
  const __m256i normal = _mm256_min_epu8(_mm256_and_si256(c, _mm256_set1_epi8(0x78)), _mm256_set1_epi8(kNormal));
  const __m256i index = _mm256_or_si256(_mm256_and_si256(c, _mm256_set1_epi8(7)), normal);
  const __m256i lows = _mm256_shuffle_epi8(low, index), highs = _mm256_shuffle_epi8(high, index);
  auto put = [&](__m256i values, __m256i wide, bf16* to) {  // `wide`: codes in the upper bytes
    const __m256i sign_exponent = _mm256_and_si256(_mm256_srai_epi16(wide, 4), _mm256_set1_epi16(static_cast<int16_t>(0x8780)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi16(values, sign_exponent));
  };
  put(_mm256_unpacklo_epi8(lows, highs), _mm256_unpacklo_epi8(zero, c), out);
  put(_mm256_unpackhi_epi8(lows, highs), _mm256_unpackhi_epi8(zero, c), out + 32);
}

// One block, in the order of matrix.h.
inline void convert(const uint8_t* block, bf16* out) {
  const float scale = scale_of(block);
  alignas(64) bf16 values[128];
  values_of(scale, 128, values);
  const bool denormal = kMagnitudes.of[kNormal] * scale < std::numeric_limits<float>::min();
  const bool infinite = values[kLargest] >= 0x7f80;
  const uint8_t* codes = block + kFp8Header;
  if (denormal || infinite) {
    for (int64_t i = 0; i < kFp8Codes; i += 32) convert_any(codes + i, values, out + i / 64 * 64 + i % 64 / 2);
    return;
  }
  alignas(16) uint8_t low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    const int bits = values[i] - (i < kNormal ? 0 : 0x80);
    low[i] = static_cast<uint8_t>(bits), high[i] = static_cast<uint8_t>(bits >> 8);
  }
  const __m256i lows = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(low)));
  const __m256i highs = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(high)));
  for (int64_t i = 0; i < kFp8Codes; i += 32) convert_normal(codes + i, lows, highs, out + i / 64 * 64 + i % 64 / 2);
}

// c[m, n] for 64 columns; `to_bf16` converts a block.
template <typename F>
inline void multiply_converted(const bf16* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t rows, int64_t depth,
                               F&& to_bf16) {
  alignas(64) bf16 block[kFp8Codes];
  for (int64_t k = 0; k < depth; k += kFp8Depth, w += kFp8Bytes) {
    to_bf16(w, block);
    if (k) {
      multiply<bf16, true>(x + k, ldx, block, c, ldc, rows, kBlock, kFp8Depth);
    } else {
      multiply<bf16>(x, ldx, block, c, ldc, rows, kBlock, kFp8Depth);
    }
  }
}

inline void multiply_fp8(const bf16* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  multiply_converted(x, ldx, w, c, ldc, rows, depth, convert);
}

template <typename T>
constexpr auto multiply_fp8_of() -> decltype(Kernels<T>::multiply_fp8) {
  if constexpr (sizeof(T) == sizeof(bf16)) {
    return multiply_fp8;
  } else {
    return nullptr;
  }
}

}  // namespace
}  // namespace caracal
