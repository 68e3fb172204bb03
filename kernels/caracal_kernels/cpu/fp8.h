// Products with weights that stay in fp8 (e4m3). A value is round(code * scale), as services/checkpoint/fp8.py dequantizes
// it, and is multiplied in the same order: the bits are those of the dequantized matrix. All codes of a block share a scale,
// so what they become is looked up.
//
// A block has 64 columns and 128 inputs. Its scale comes first, so that memory is read in one direction; then, for every
// step of 2 inputs, 128 codes. Of them 64 belong to two panels, 8 codes of the one and 8 of the other in turn: unpacking
// the low and the high bytes of 16 values gives each panel's values side by side.
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

inline vec values_of(int first, float scale) { return Simd::mul(Simd::load(kMagnitudes.of + first), Simd::set(scale)); }

// A scale that makes no denormal of a code that is none, and no infinity, only adds to the exponent: 16 values are enough,
// those of the denormal codes and those of the smallest exponent, from which that exponent is taken off.
struct SixteenValues {
  static constexpr int group = 32;                            // codes that are looked up together
  static constexpr int most_rows = Simd::lanes == 8 ? 1 : 0;  // of `direct`: it fills vectors of 256 bits
  __m256i low, high;                                          // bytes of the values

  // False for other scales.
  bool fill(float scale) {
    alignas(64) bf16 values[16], last[Simd::lanes];
    for (int i = 0; i < 16; i += Simd::lanes) Simd::store(values + i, values_of(i, scale));
    Simd::store(last, values_of(128 - Simd::lanes, scale));
    if (kMagnitudes.of[kNormal] * scale < std::numeric_limits<float>::min() || last[Simd::lanes - 128 + kLargest] >= 0x7f80)
      return false;
    alignas(16) uint8_t lows[16], highs[16];
    for (int i = 0; i < 16; ++i) {
      const int bits = values[i] - (i < kNormal ? 0 : 0x80);
      lows[i] = static_cast<uint8_t>(bits), highs[i] = static_cast<uint8_t>(bits >> 8);
    }
    low = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(lows)));
    high = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(highs)));
    return true;
  }

  [[gnu::always_inline]] void look_up(const uint8_t* codes, __m256i& first, __m256i& second) const {
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), zero = _mm256_setzero_si256();
    const __m256i normal = _mm256_min_epu8(_mm256_and_si256(c, _mm256_set1_epi8(0x78)), _mm256_set1_epi8(kNormal));
    const __m256i index = _mm256_or_si256(_mm256_and_si256(c, _mm256_set1_epi8(7)), normal);
    const __m256i lows = _mm256_shuffle_epi8(low, index), highs = _mm256_shuffle_epi8(high, index);
    auto add = [](__m256i values, __m256i wide) {  // sign and exponent of codes, which are the upper bytes
      const __m256i both = _mm256_and_si256(_mm256_srai_epi16(wide, 4), _mm256_set1_epi16(static_cast<int16_t>(0x8780)));
      return _mm256_add_epi16(values, both);
    };
    first = add(_mm256_unpacklo_epi8(lows, highs), _mm256_unpacklo_epi8(zero, c));
    second = add(_mm256_unpackhi_epi8(lows, highs), _mm256_unpackhi_epi8(zero, c));
  }
};

// Of a group of codes, `first` and `second` are values of a panel and of the next one: a whole panel's, or half of one's.
template <class Values>
constexpr int kParts = 64 / Values::group;

// A block to bf16, in the order of matrix.h. The next block is fetched meanwhile: the products read no memory.
template <class Values>
inline void convert(const Values& values, const uint8_t* codes, bf16* out) {
  constexpr int parts = kParts<Values>, width = 32 / parts;
  for (int64_t i = 0; i < kFp8Codes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + i + kFp8Bytes), _MM_HINT_T1);
    for (int part = 0; part < parts; ++part) {
      decltype(values.low) first, second;
      values.look_up(codes + i + part * Values::group, first, second);
      std::memcpy(out + i + part * width, &first, sizeof first);
      std::memcpy(out + i + part * width + 32, &second, sizeof second);
    }
  }
}

// The same for any scale.
inline void convert_any(float scale, const uint8_t* codes, bf16* out) {
  alignas(64) bf16 values[128];
  for (int i = 0; i < 128; i += Simd::lanes) Simd::store(values + i, values_of(i, scale));
  for (int64_t i = 0; i < kFp8Codes; ++i)
    out[i / 64 * 64 + i / 8 % 2 * 32 + i % 64 / 16 * 8 + i % 8] =
        static_cast<bf16>(values[codes[i] & 0x7f] | (codes[i] & 0x80) << 8);
}

// sums += x w^T of one block: few rows, every code is looked up on its way to the products. `Halves` of the columns at a time.
template <int Rows, int Halves, class Values>
inline void direct(const Values& values, const bf16* x, int64_t ldx, const uint8_t* codes, float* sums) {
  using D = Dot<bf16>;
  constexpr int parts = kParts<Values>;
  vec acc[Rows][2 * Halves * parts];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < 2 * Halves * parts; ++n) acc[m][n] = Simd::load(sums + m * kBlock + n * Simd::lanes);
  for (int64_t k = 0; k < kFp8Depth; k += 2, codes += kBlock * 2)
    for (int group = 0; group < Halves * parts; ++group) {
      decltype(values.low) first, second;
      values.look_up(codes + group * Values::group, first, second);
      const int n = group / parts * 2 * parts + group % parts;
      for (int m = 0; m < Rows; ++m) {
        const typename D::in xk = D::spread(x + m * ldx + k);
        acc[m][n] = D::mac(acc[m][n], xk, D::of(first));
        acc[m][n + parts] = D::mac(acc[m][n + parts], xk, D::of(second));
      }
    }
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < 2 * Halves * parts; ++n) Simd::store(sums + m * kBlock + n * Simd::lanes, acc[m][n]);
}

// The same for up to `most_rows`.
template <class Values, int Rows = Values::most_rows>
inline void direct_of(int64_t rows, const Values& values, const bf16* x, int64_t ldx, const uint8_t* codes, float* sums) {
  if constexpr (Rows > 0) {
    if (rows < Rows) return direct_of<Values, Rows - 1>(rows, values, x, ldx, codes, sums);
    constexpr int halves = Simd::lanes == 16 ? 2 : 1;
    for (int half = 0; half < 2; half += halves)
      direct<Rows, halves>(values, x, ldx, codes + half * 64, sums + half * 2 * kPanel);
  }
}

constexpr int64_t kSumsRows = 48;  // their sums and a block in bf16 fit the first cache

// sums[m, n] += x w^T of one block.
template <class Values>
inline void add_block(const bf16* x, int64_t ldx, const uint8_t* w, float* sums, int64_t rows) {
  float scale;
  std::memcpy(&scale, w, sizeof scale);
  Values values;
  const bool filled = values.fill(scale);
  if (filled && rows <= Values::most_rows) return direct_of(rows, values, x, ldx, w + kFp8Header, sums);
  alignas(64) bf16 block[kFp8Codes];
  if (filled) {
    convert(values, w + kFp8Header, block);
  } else {
    convert_any(scale, w + kFp8Header, block);
  }
  multiply<bf16, true>(x, ldx, block, sums, kBlock, rows, kBlock, kFp8Depth);
}

// c[m, n] for 64 columns.
template <class Values>
void multiply_fp8_by(const bf16* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  alignas(64) float sums[kSumsRows * kBlock];
  for (int64_t m = 0; m < rows;) {
    const int64_t parts = (rows - m + kSumsRows - 1) / kSumsRows, some = (rows - m + parts - 1) / parts;
    std::fill_n(sums, some * kBlock, 0.0f);
    for (int64_t k = 0; k < depth; k += kFp8Depth)
      add_block<Values>(x + m * ldx + k, ldx, w + k / kFp8Depth * kFp8Bytes, sums, some);
    for (int64_t i = 0; i < some; ++i, ++m) std::copy_n(sums + i * kBlock, kBlock, c + m * ldc);
  }
}

template <typename T>
constexpr auto multiply_fp8_of() -> decltype(Kernels<T>::multiply_fp8) {
  if constexpr (sizeof(T) == sizeof(bf16)) {
    return multiply_fp8_by<SixteenValues>;
  } else {
    return nullptr;
  }
}

}  // namespace
}  // namespace caracal
