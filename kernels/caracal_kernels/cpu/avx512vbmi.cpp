// Of the kernels for AVX-512 the one that gains by VBMI. A CPU may have BF16 without VBMI, so the others are compiled
// without it.
#include "avx512.h"

#include "body.h"

namespace caracal {
namespace {

// What every code becomes: its low byte and its high byte are each one look-up in 128 bytes.
struct AllValues {
  static constexpr int group = 64, most_rows = Simd::max_rows;
  __m512i low, low_end, high, high_end;  // bytes of the values of the 128 codes without a sign

  bool fill(float scale) {
    __m256i lows[4], highs[4];
    for (int i = 0; i < 4; ++i) {
      const __m512i words = join(Simd::narrow(values_of(32 * i, scale)), Simd::narrow(values_of(32 * i + 16, scale)));
      lows[i] = _mm512_cvtepi16_epi8(words);
      highs[i] = _mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 8));
    }
    low = join(lows[0], lows[1]), low_end = join(lows[2], lows[3]);
    high = join(highs[0], highs[1]), high_end = join(highs[2], highs[3]);
    return true;
  }

  [[gnu::always_inline]] void look_up(const uint8_t* codes, __m512i& first, __m512i& second) const {
    const __m512i c = _mm512_loadu_si512(codes), sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i lows = _mm512_permutex2var_epi8(low, c, low_end);
    __m512i highs = _mm512_permutex2var_epi8(high, c, high_end);
    highs = _mm512_ternarylogic_epi32(highs, c, sign, 0xf8);  // highs | (c & sign)
    first = _mm512_unpacklo_epi8(lows, highs);
    second = _mm512_unpackhi_epi8(lows, highs);
  }

 private:
  static __m512i join(__m256i a, __m256i b) { return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1); }
};

}  // namespace

const Kernels<bf16>& avx512vbmi_bf16() {
  static const Kernels<bf16> kernels = [] {
    Kernels<bf16> most = avx512_bf16();
    most.multiply_fp8 = multiply_fp8_by<AllValues>;
    return most;
  }();
  return kernels;
}

}  // namespace caracal
