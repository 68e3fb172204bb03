// One vector of 8 fp32 lanes, AVX2 with FMA. bf16 is widened: two FMAs for two values.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace caracal {
namespace {

struct Simd {
  static constexpr int lanes = 8;
  static constexpr int max_rows = 2;  // 2 x 4 accumulators leave room for the widened inputs
  static constexpr int most_panels = 1;
  using vec = __m256;

  static vec zero() { return _mm256_setzero_ps(); }
  static vec set(float x) { return _mm256_set1_ps(x); }
  static vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
  static vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
  static vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
  static vec div(vec a, vec b) { return _mm256_div_ps(a, b); }
  static vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
  static vec min(vec a, vec b) { return _mm256_min_ps(a, b); }
  static vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
  static vec round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static vec exp2i(vec n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static __m256i mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m128i part(const bf16* p, int64_t count) {
    bf16 buffer[8] = {};
    std::memcpy(buffer, p, count * sizeof(bf16));
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(buffer));
  }

  static vec load(const float* p) { return _mm256_loadu_ps(p); }
  static vec load(const float* p, int64_t count) { return _mm256_maskload_ps(p, mask(count)); }
  static void store(float* p, vec a) { _mm256_storeu_ps(p, a); }
  static void store(float* p, vec a, int64_t count) { _mm256_maskstore_ps(p, mask(count), a); }
  static vec widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
  static vec load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static vec load(const bf16* p, int64_t count) { return widen(part(p, count)); }
  static __m128i narrow(vec a) {
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(nan));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
  static void store(bf16* p, vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
  static void store(bf16* p, vec a, int64_t count) {
    bf16 buffer[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(buffer), narrow(a));
    std::memcpy(p, buffer, count * sizeof(bf16));
  }

  [[gnu::always_inline]] static __m128 quarter(vec a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }
  static float sum(vec a) {
    __m128 q = quarter(a);
    q = _mm_hadd_ps(q, q);
    return _mm_cvtss_f32(_mm_hadd_ps(q, q));
  }
  [[gnu::always_inline]] static __m128 sum4(vec a, vec b, vec c, vec d) {
    return _mm_hadd_ps(_mm_hadd_ps(quarter(a), quarter(b)), _mm_hadd_ps(quarter(c), quarter(d)));
  }
  static float highest(vec a) {
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
  }

  // A square of 8 x 8 words of 32 bits, columns to rows; `from_apart` and `to_apart` are bytes between rows.
  static void transpose_words(const void* from, int64_t from_apart, void* to, int64_t to_apart) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(from) + i * from_apart));
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
      b[j] = _mm256_permute2f128_ps(a[j], a[j + 4], 0x20);
      b[j + 4] = _mm256_permute2f128_ps(a[j], a[j + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) _mm256_storeu_ps(reinterpret_cast<float*>(static_cast<char*>(to) + i * to_apart), b[i]);
  }
};

template <typename T>
struct Dot;

template <>
struct Dot<float> {
  static constexpr int step = 8, together = 1;
  using in = __m256;
  static in load(const float* p) { return _mm256_loadu_ps(p); }
  static in load(const float* p, int64_t count) { return Simd::load(p, count); }
  static in spread(const float* p) { return _mm256_set1_ps(*p); }
  static in spread_last(const float* p) { return spread(p); }
  static __m256 mac(__m256 acc, in a, in b) { return _mm256_fmadd_ps(a, b, acc); }
};

template <>
struct Dot<bf16> {
  static constexpr int step = 16, together = 2;
  struct in {
    __m256 even, odd;
  };
  static in split(__m256i x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static in of(__m256i x) { return split(x); }
  static in load(const bf16* p) { return split(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static in load(const bf16* p, int64_t count) {
    bf16 buffer[16] = {};
    std::memcpy(buffer, p, count * sizeof(bf16));
    return load(buffer);
  }
  static in spread(const bf16* p) {
    int both;
    std::memcpy(&both, p, sizeof both);
    return split(_mm256_set1_epi32(both));
  }
  static in spread_last(const bf16* p) { return split(_mm256_set1_epi32(*p)); }
  static __m256 mac(__m256 acc, in a, in b) {
    return _mm256_fmadd_ps(a.odd, b.odd, _mm256_fmadd_ps(a.even, b.even, acc));
  }
};

}  // namespace
}  // namespace caracal
