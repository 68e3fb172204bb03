// One vector of 16 fp32 lanes, AVX-512 with BF16.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace caracal {
namespace {

struct Simd {
  static constexpr int lanes = 16;
  static constexpr int max_rows = 6;  // 6 x 4 accumulators, 4 weights and an input fit 32 registers
  static constexpr int most_panels = 4;
  using vec = __m512;

  static vec zero() { return _mm512_setzero_ps(); }
  static vec set(float x) { return _mm512_set1_ps(x); }
  static vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
  static vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
  static vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
  static vec div(vec a, vec b) { return _mm512_div_ps(a, b); }
  static vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
  static vec min(vec a, vec b) { return _mm512_min_ps(a, b); }
  static vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
  static vec round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static vec exp2i(vec n) {  // 2^n of integral n in the normal range
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }
  static __mmask16 mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

  static vec load(const float* p) { return _mm512_loadu_ps(p); }
  static vec load(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(mask(count), p); }
  static void store(float* p, vec a) { _mm512_storeu_ps(p, a); }
  static void store(float* p, vec a, int64_t count) { _mm512_mask_storeu_ps(p, mask(count), a); }
  static vec widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
  static vec load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static vec load(const bf16* p, int64_t count) { return widen(_mm256_maskz_loadu_epi16(mask(count), p)); }
  static __m256i narrow(vec a) {  // round to nearest even, denormals kept
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }
  static void store(bf16* p, vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
  static void store(bf16* p, vec a, int64_t count) { _mm256_mask_storeu_epi16(p, mask(count), narrow(a)); }

  // The tree: halves, quarters, then eighths. sum4 is four of sum side by side.
  [[gnu::always_inline]] static __m128 quarter(vec a) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  static float sum(vec a) {
    __m128 q = quarter(a);
    q = _mm_hadd_ps(q, q);
    return _mm_cvtss_f32(_mm_hadd_ps(q, q));
  }
  [[gnu::always_inline]] static __m128 sum4(vec a, vec b, vec c, vec d) {
    return _mm_hadd_ps(_mm_hadd_ps(quarter(a), quarter(b)), _mm_hadd_ps(quarter(c), quarter(d)));
  }
  static float highest(vec a) { return _mm512_reduce_max_ps(a); }

  // A square of 16 x 16 words of 32 bits, columns to rows; `from_apart` and `to_apart` are bytes between rows.
  static void transpose_words(const void* from, int64_t from_apart, void* to, int64_t to_apart) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(static_cast<const char*>(from) + i * from_apart);
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 16; i += 8)
      for (int j = 0; j < 4; ++j) {
        b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
        b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
      }
    for (int j = 0; j < 8; ++j) {
      a[j] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0x88);
      a[j + 8] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd);
    }
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(static_cast<char*>(to) + i * to_apart, a[i]);
  }
};

// How a product takes its inputs: `step` values at a time into the 16 lanes.
// How a product takes its inputs: `step` values at a time into the 16 lanes for keys that lie as they are, `together`
// values of each of 16 columns for packed weights.
template <typename T>
struct Dot;

template <>
struct Dot<float> {
  static constexpr int step = 16, together = 1;
  using in = __m512;
  static in load(const float* p) { return _mm512_loadu_ps(p); }
  static in load(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(Simd::mask(count), p); }
  static in spread(const float* p) { return _mm512_set1_ps(*p); }
  static in spread_last(const float* p) { return spread(p); }
  static __m512 mac(__m512 acc, in a, in b) { return _mm512_fmadd_ps(a, b, acc); }
};

template <>
struct Dot<bf16> {
  static constexpr int step = 32, together = 2;
  using in = __m512i;
  static in load(const bf16* p) { return _mm512_loadu_si512(p); }
  static in load(const bf16* p, int64_t count) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p);
  }
  static in of(__m512i x) { return x; }
  static in spread(const bf16* p) {
    int both;
    std::memcpy(&both, p, sizeof both);
    return _mm512_set1_epi32(both);
  }
  static in spread_last(const bf16* p) { return _mm512_set1_epi32(*p); }
  static __m512 mac(__m512 acc, in a, in b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
};

}  // namespace
}  // namespace caracal
