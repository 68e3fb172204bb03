// The table of kernels that one instruction set offers for one dtype. Plain pointers: no torch header is needed to compile them.
//
// Numerics: every output element of a product has its own accumulator lane, which walks the depth in order. Register
// blocking over rows and columns, and threads over columns, therefore never change a bit.
#pragma once
#include <cstdint>

namespace caracal {

constexpr int64_t kPanel = 16, kBlock = 64;  // columns of a packed matrix, see matrix.h
// A block of a matrix in fp8, see fp8.h: one scale, then the codes of 64 columns and 128 inputs.
constexpr int64_t kFp8Depth = 128, kFp8Codes = kBlock * kFp8Depth, kFp8Header = 64, kFp8Bytes = kFp8Header + kFp8Codes;

// A latent cache. `at` rows of values, or in fp8 (`codes` of them first in a row) of bytes: see latent.h.
struct Cache {
  const uint8_t* at;
  int64_t row;            // bytes
  int64_t codes;          // 0 = the rows are values
  int64_t scales, rope;   // where they begin in a row, in bytes
};

template <typename T>
struct Kernels {
  // c[m, n] = sum over k of x[m, k] * w[n, k] for the `columns` n of one packed block.
  void (*multiply)(const T* x, int64_t ldx, const T* w, float* c, int64_t ldc, int64_t rows, int64_t columns, int64_t depth);
  // The same for 64 columns in fp8, `depth / kFp8Depth` blocks one behind the other; null for float.
  void (*multiply_fp8)(const T* x, int64_t ldx, const uint8_t* w, float* c, int64_t ldc, int64_t rows, int64_t depth);
  // Packs rows of w into one block.
  void (*pack)(const T* w, int64_t ldw, int64_t columns, int64_t depth, T* out);
  // out = round(c), or round(residual + round(c)).
  void (*store)(const float* c, const T* residual, T* out, int64_t count);
  // out = round(round(x * rsqrt(mean(x^2) + eps)) * weight)
  void (*rms_norm)(const T* x, const T* weight, T* out, int64_t width, float eps);
  // out = round(silu(gate) * up)
  void (*silu_mul)(const float* gate, const float* up, T* out, int64_t width);
  // out = round(x * scale)
  void (*scale)(const T* x, float factor, T* out, int64_t count);
  // Interleaved dims in, de-interleaved halves out; cos_sin holds width/2 cosines, then width/2 sines.
  void (*rope)(const T* x, const float* cos_sin, T* out, int64_t width);
  // Attention of consecutive queries of one sequence, the first of which sees `keys` keys, each next one one more:
  // q [queries, heads, latent + rope], o [queries, heads, latent]; scratch: queries * heads * (2 * latent + 21) floats.
  // block: 16 * (latent + rope) values, for a cache in fp8. Keys from `sink` to `sink + gap` are left out, both multiples of 16.
  void (*attend)(const T* q, const Cache& cache, const int32_t* pages, int64_t page_size, int64_t keys, int64_t sink, int64_t gap,
                 int64_t queries, int64_t heads, int64_t width, int64_t latent, float scale, T* o, float* scratch,
                 T* block);
  // A latent of `count` values to fp8.
  void (*write_latent)(const T* x, int64_t count, uint8_t* codes, float* scales);
  // acc += weight * row
  void (*add_scaled)(float* acc, const T* row, float weight, int64_t width);
  void (*widen)(const T* x, float* out, int64_t count);
  // In place: p = softmax(p)
  void (*softmax)(float* p, int64_t count);
  // The lowest index of the largest value.
  int64_t (*argmax)(const float* x, int64_t count);
  // out = exp((x - top) / heat)
  void (*exp_scaled)(const float* x, float top, float heat, float* out, int64_t count);
};

using bf16 = uint16_t;
const Kernels<bf16>& avx512_bf16();
const Kernels<bf16>& avx512vbmi_bf16();  // the same bits, fp8 faster
const Kernels<float>& avx512_f32();
const Kernels<bf16>& avx2_bf16();
const Kernels<float>& avx2_f32();

}  // namespace caracal
