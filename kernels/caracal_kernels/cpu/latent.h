// Rows of a latent cache in fp8: codes, fp32 scales of 128 codes each, then the rope key as it is. See latent_cache.py.
#pragma once
#include <cstring>

namespace caracal {
namespace {

constexpr int64_t kScaled = 128;  // codes with one scale

// x within ±448, to nearest even. Below 2^-6 codes are multiples of 2^-9: adding 2^14 leaves them in the lowest bits.
inline uint8_t e4m3_of(float x) {
  uint32_t bits, tiny_bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t magnitude = bits & 0x7fffffff;
  const float tiny = std::fabs(x) + 16384.0f;
  std::memcpy(&tiny_bits, &tiny, 4);
  const uint32_t normal = ((magnitude + 0x7ffff + ((magnitude >> 20) & 1)) >> 20) - (120u << 3);
  const uint32_t code = magnitude < 0x3c800000 ? tiny_bits - 0x46800000 : normal;
  return static_cast<uint8_t>((code & 0x7f) | (bits >> 31 << 7));
}

// Without denormal numbers on the way, which some processors compute slowly. The code of NaN is never written.
inline float value_of_e4m3(uint8_t code) {
  const bool denormal = !(code & 0x78);
  const uint32_t bits = (static_cast<uint32_t>(code & 0x7f) << 20) + (denormal ? 121u << 23 : 120u << 23);
  float value;
  std::memcpy(&value, &bits, 4);
  value -= denormal ? 0.015625f : 0.0f;
  uint32_t result;
  std::memcpy(&result, &value, 4);
  result |= static_cast<uint32_t>(code & 0x80) << 24;
  std::memcpy(&value, &result, 4);
  return value;
}

// Values that are not finite make the scale NaN, and with it all that is read of the block.
template <typename T>
void write_latent(const T* x, int64_t count, uint8_t* codes, float* scales) {
  alignas(64) float values[kScaled];
  for (int64_t begin = 0; begin < count; begin += kScaled) {
    const int64_t some = std::min(kScaled, count - begin);
    vec top = Simd::zero(), none = Simd::zero();
    chunks(some, [&](int64_t i, int64_t lanes) {
      const vec v = load_some(x + begin + i, lanes);
      store_some(values + i, v, lanes);
      top = Simd::max(Simd::max(v, Simd::sub(Simd::zero(), v)), top);
      none = Simd::fma(v, Simd::zero(), none);
    });
    const float scale = std::max(Simd::highest(top), 1e-10f) / 448.0f + Simd::sum(none);
    for (int64_t i = 0; i < some; ++i) codes[begin + i] = e4m3_of(std::min(std::max(values[i] / scale, -448.0f), 448.0f));
    std::memcpy(scales + begin / kScaled, &scale, sizeof scale);
  }
}

// out = round(code * scale)
template <typename T>
void read_latent(const uint8_t* codes, const float* scales, T* out, int64_t count) {
  alignas(64) float values[kScaled];
  for (int64_t begin = 0; begin < count; begin += kScaled) {
    const int64_t some = std::min(kScaled, count - begin);
    float scale;
    std::memcpy(&scale, scales + begin / kScaled, sizeof scale);
    for (int64_t i = 0; i < some; ++i) values[i] = value_of_e4m3(codes[begin + i]);
    const vec factor = Simd::set(scale);
    chunks(some, [&](int64_t i, int64_t lanes) {
      store_some(out + begin + i, Simd::mul(load_some(values + i, lanes), factor), lanes);
    });
  }
}

}  // namespace
}  // namespace caracal
