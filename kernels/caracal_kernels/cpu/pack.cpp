// pack_weights and pack_fp8: a matrix, or one per head, as products read it. See matrix.h and fp8.h.
#include <ATen/ops/from_blob.h>

#include <cstring>

#include "arena.h"
#include "weights.h"

namespace caracal {
namespace {

Tensor in_arena(const std::vector<int64_t>& sizes, int64_t bytes, const at::TensorOptions& options) {
  const auto memory = arena_memory(bytes);
  return at::from_blob(memory.get(), sizes, [memory](void*) {}, options);
}

// One block: `ldw` codes lie between columns of w.
void pack_block(const uint8_t* w, int64_t ldw, float scale, uint8_t* out) {
  std::fill_n(out, kFp8Header, uint8_t{0});
  std::memcpy(out, &scale, sizeof scale);
  out += kFp8Header;
  for (int64_t column = 0; column < kBlock; ++column, w += ldw) {
    // Of 32 columns, 4 of the first panel and 4 of the second lie in turn.
    uint8_t* to = out + (column / 32 * 32 + column % 16 / 4 * 8 + column / 16 % 2 * 4 + column % 4) * 2;
    for (int64_t k = 0; k < kFp8Depth; k += 2) std::memcpy(to + k * kBlock, w + k, 2);
  }
}

}  // namespace

Tensor pack_weights(const Tensor& w) {
  const char* op = "pack_weights";
  const auto dtype = model_dtype(op, "w", w);
  TORCH_CHECK(w.dim() == 2 || w.dim() == 3, op, ": w has ", w.dim(), " dimensions, expected 2, or 3 with heads");
  check(op, "w", w, dtype, w.dim());
  const MatrixShape shape = matrix_shape(op, "w", w, dtype, w.dim());
  TORCH_CHECK(shape.columns % kPanel == 0 && shape.depth % together(dtype) == 0, op, ": w is [", shape.columns, ", ",
              shape.depth, "], expected multiples of ", kPanel, " and ", together(dtype));
  std::vector<int64_t> sizes{shape.columns / kPanel, shape.depth / together(dtype), kPanel, together(dtype)};
  if (w.dim() == 3) sizes.insert(sizes.begin(), shape.heads);
  const Tensor out = in_arena(sizes, static_cast<int64_t>(w.nbytes()), w.options());
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    for (int64_t i = 0; i < shape.heads; ++i)
      for (int64_t n = 0; n < shape.columns; n += kBlock) {
        const int64_t at = i * shape.columns * shape.depth + n * shape.depth;
        active<T>().pack(ptr<T>(w) + at, shape.depth, std::min(kBlock, shape.columns - n), shape.depth, ptr<T>(out) + at);
      }
  });
  return out;
}

Tensor pack_fp8(const Tensor& w, const Tensor& scale) {
  const char* op = "pack_fp8";
  TORCH_CHECK(w.dim() == 2 || w.dim() == 3, op, ": w has ", w.dim(), " dimensions, expected 2, or 3 with heads");
  check(op, "w", w, at::kFloat8_e4m3fn, w.dim());
  check(op, "scale", scale, at::kFloat, w.dim());
  const int64_t heads = w.dim() == 3 ? w.size(0) : 1, columns = w.size(-2), depth = w.size(-1);
  TORCH_CHECK(columns % kBlock == 0 && depth % kFp8Depth == 0, op, ": w is [", columns, ", ", depth, "], expected multiples of ",
              kBlock, " and ", kFp8Depth);
  if (w.dim() == 3) check_size(op, "scale", scale, 0, heads);
  check_size(op, "scale", scale, w.dim() - 2, columns / kBlock);
  check_size(op, "scale", scale, w.dim() - 1, depth / kFp8Depth);
  std::vector<int64_t> sizes{columns / kBlock, depth / kFp8Depth, kFp8Bytes};
  if (w.dim() == 3) sizes.insert(sizes.begin(), heads);
  const int64_t along = depth / kFp8Depth, blocks = heads * (columns / kBlock) * along;
  const Tensor out = in_arena(sizes, blocks * kFp8Bytes, w.options().dtype(at::kByte));
  in_parallel(blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      pack_block(ptr<uint8_t>(w) + i / along * kBlock * depth + i % along * kFp8Depth, depth, ptr<float>(scale)[i],
                 ptr<uint8_t>(out) + i * kFp8Bytes);
  });
  return out;
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) {
  m.impl("pack_weights", &pack_weights);
  m.impl("pack_fp8", &pack_fp8);
}

}  // namespace caracal
