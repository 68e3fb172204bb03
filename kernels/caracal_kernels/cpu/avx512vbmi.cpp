// Of the kernels for AVX-512 the one that gains by VBMI: two bytes of a bf16 value are two look-ups in 128 bytes. A CPU may
// have BF16 without VBMI, so the others are compiled without it.
#include "avx512.h"

#include "body.h"

namespace caracal {
namespace {

struct Bytes {
  __m512i low[2], high[2];  // of the values of the 128 codes without a sign
};

inline Bytes bytes_of(const uint8_t* block) {
  const vec scale = Simd::set(scale_of(block));
  __m256i low[4], high[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i first = Simd::narrow(Simd::mul(Simd::load(kMagnitudes.of + 32 * i), scale));
    const __m256i second = Simd::narrow(Simd::mul(Simd::load(kMagnitudes.of + 32 * i + 16), scale));
    const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    low[i] = _mm512_cvtepi16_epi8(words);
    high[i] = _mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 8));
  }
  auto join = [](__m256i a, __m256i b) { return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1); };
  return {{join(low[0], low[1]), join(low[2], low[3])}, {join(high[0], high[1]), join(high[2], high[3])}};
}

// 64 codes to the 32 values of each of two panels.
[[gnu::always_inline]] inline void look_up(const Bytes& bytes, const uint8_t* codes, __m512i& first, __m512i& second) {
  const __m512i c = _mm512_loadu_si512(codes);
  const __m512i low = _mm512_permutex2var_epi8(bytes.low[0], c, bytes.low[1]);
  __m512i high = _mm512_permutex2var_epi8(bytes.high[0], c, bytes.high[1]);
  high = _mm512_ternarylogic_epi32(high, c, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);  // high | (c & sign)
  first = _mm512_unpacklo_epi8(low, high);
  second = _mm512_unpackhi_epi8(low, high);
}

inline void convert_vbmi(const uint8_t* block, bf16* out) {
  const Bytes bytes = bytes_of(block);
  const uint8_t* codes = block + kFp8Header;
  for (int64_t i = 0; i < kFp8Codes; i += 64) {
    __m512i first, second;
    look_up(bytes, codes + i, first, second);
    _mm512_storeu_si512(out + i, first);
    _mm512_storeu_si512(out + i + 32, second);
  }
}

constexpr int kDirectRows = 4;  // 4 x 4 accumulators, 4 vectors of bytes, 4 weights and an input fit 32 registers

// Few rows: every code is looked up on its way to the products.
template <int Rows>
inline void direct(const bf16* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t depth) {
  vec acc[Rows][4];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < 4; ++n) acc[m][n] = Simd::zero();
  for (int64_t k = 0; k < depth; k += kFp8Depth, w += kFp8Bytes) {
    const Bytes bytes = bytes_of(w);
    const uint8_t* codes = w + kFp8Header;
    for (int64_t i = k; i < k + kFp8Depth; i += 2, codes += 128) {
      __m512i wk[4];
      look_up(bytes, codes, wk[0], wk[1]);
      look_up(bytes, codes + 64, wk[2], wk[3]);
      for (int m = 0; m < Rows; ++m) {
        const __m512i xk = Dot<bf16>::spread(x + m * ldx + i);
        for (int n = 0; n < 4; ++n) acc[m][n] = Dot<bf16>::mac(acc[m][n], xk, wk[n]);
      }
    }
  }
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < 4; ++n) Simd::store(c + m * ldc + n * Simd::lanes, acc[m][n]);
}

void multiply_fp8_vbmi(const bf16* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  switch (rows) {
    case 1: return direct<1>(x, ldx, w, c, ldc, depth);
    case 2: return direct<2>(x, ldx, w, c, ldc, depth);
    case 3: return direct<3>(x, ldx, w, c, ldc, depth);
    case kDirectRows: return direct<kDirectRows>(x, ldx, w, c, ldc, depth);
    default: return multiply_converted(x, ldx, w, c, ldc, rows, depth, convert_vbmi);
  }
}

}  // namespace

const Kernels<bf16>& avx512vbmi_bf16() {
  static const Kernels<bf16> kernels = [] {
    Kernels<bf16> most = avx512_bf16();
    most.multiply_fp8 = multiply_fp8_vbmi;
    return most;
  }();
  return kernels;
}

}  // namespace caracal
