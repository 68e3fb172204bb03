// pack_weights: a matrix, or one per head, as products read it. See matrix.h.
#include <ATen/ops/from_blob.h>

#include "arena.h"
#include "weights.h"

namespace caracal {

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
  const auto memory = arena_memory(w.nbytes());
  const Tensor out = at::from_blob(memory.get(), sizes, [memory](void*) {}, w.options());
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    const Matrix<T> from = shape.matrix<T>(w);
    for (int64_t i = 0; i < shape.heads; ++i)
      for (int64_t n = 0; n < shape.columns; n += kBlock) {
        const int64_t at = i * shape.columns * shape.depth + n * shape.depth;
        active<T>().pack(from.at + at, shape.depth, std::min(kBlock, shape.columns - n), shape.depth, ptr<T>(out) + at);
      }
  });
  return out;
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) { m.impl("pack_weights", &pack_weights); }

}  // namespace caracal
