// Weight matrices as the ops get them: as they are in a checkpoint, or packed once by `pack_weights` or `pack_fp8` when they
// were loaded. All give the same bits; one that is not packed is packed block by block in each product.
#pragma once
#include "dense.h"

namespace caracal {

template <typename T>
constexpr int64_t kTogether = sizeof(float) / sizeof(T);  // values of a column that lie side by side in a packed matrix

inline int64_t together(at::ScalarType dtype) { return dtype == at::kBFloat16 ? kTogether<bf16> : kTogether<float>; }

enum class Layout { plain, packed, fp8 };

// One matrix [columns, depth], the first of several of one size that follow each other.
template <typename T>
struct Matrix {
  const uint8_t* at;
  int64_t columns, depth;
  Layout layout;

  int64_t bytes(int64_t of_columns) const {
    const int64_t values = of_columns * depth;
    return layout == Layout::fp8 ? values / kFp8Codes * kFp8Bytes : values * static_cast<int64_t>(sizeof(T));
  }
  const uint8_t* block(int64_t column) const { return at + bytes(column); }
  Matrix head(int64_t i) const { return {at + i * bytes(columns), columns, depth, layout}; }
};

struct MatrixShape {
  int64_t heads, columns, depth;
  Layout layout;

  template <typename T>
  Matrix<T> matrix(const Tensor& t) const {
    return {ptr<uint8_t>(t), columns, depth, layout};
  }
};

// The shape of a weight argument of `dims` dimensions, 2, or 3 for one matrix per head.
inline MatrixShape matrix_shape(const char* op, const char* name, const Tensor& t, at::ScalarType dtype, int64_t dims = 2) {
  if (t.scalar_type() == at::kByte && dtype == at::kBFloat16) {
    check(op, name, t, at::kByte, dims + 1);
    TORCH_CHECK(t.size(dims) == kFp8Bytes, op, ": ", name, " is not packed from fp8");
    return {dims == 3 ? t.size(0) : 1, t.size(dims - 2) * kBlock, t.size(dims - 1) * kFp8Depth, Layout::fp8};
  }
  const bool packed = t.dim() == dims + 2;
  check(op, name, t, dtype, packed ? dims + 2 : dims);
  const int64_t heads = dims == 3 ? t.size(0) : 1;
  if (!packed) return {heads, t.size(dims - 2), t.size(dims - 1), Layout::plain};
  TORCH_CHECK(t.size(dims) == kPanel && t.size(dims + 1) == together(dtype), op, ": ", name, " is not packed for ", dtype);
  return {heads, t.size(dims - 2) * kPanel, t.size(dims - 1) * together(dtype), Layout::packed};
}

inline void check_depth(const char* op, const char* name, const MatrixShape& shape, int64_t depth) {
  TORCH_CHECK(shape.depth == depth, op, ": ", name, " has size ", shape.depth, " in dimension 1, expected ", depth);
}

inline void check_columns(const char* op, const char* name, const MatrixShape& shape, int64_t columns) {
  TORCH_CHECK(shape.columns == columns, op, ": ", name, " has size ", shape.columns, " in dimension 0, expected ", columns);
}

// c[rows, columns] = x w^T over as many threads as torch gives. They split blocks of columns only.
template <typename T>
void product(const T* x, int64_t ldx, const Matrix<T>& w, float* c, int64_t ldc, int64_t rows) {
  if (!rows) return;
  const int64_t grain = std::max<int64_t>(1, kFlopsPerThread / std::max<int64_t>(1, rows * w.depth * kBlock));
  in_parallel((w.columns + kBlock - 1) / kBlock, grain, [&](int64_t begin, int64_t end) {
    const auto& k = active<T>();
    for (int64_t n = begin * kBlock; n < std::min(w.columns, end * kBlock); n += kBlock) {
      if (w.layout == Layout::fp8) {
        k.multiply_fp8(x, ldx, w.block(n), c + n, ldc, rows, w.depth);
        continue;
      }
      const int64_t columns = std::min(kBlock, w.columns - n);
      const T* block = reinterpret_cast<const T*>(w.block(n));
      if (w.layout == Layout::plain) {
        T* buffer = scratch<T>(7, kBlock * (w.depth + kTogether<T>));
        k.pack(block, w.depth, columns, w.depth, buffer);
        block = buffer;
      }
      k.multiply(x, ldx, block, c + n, ldc, rows, columns, w.depth);
    }
  });
}

// a[rows, F] = round(silu(gate x) * up x)
template <typename T>
void gated(const T* x, int64_t rows, const Matrix<T>& gate_up, T* a) {
  const int64_t inner = gate_up.columns / 2;
  float* c = scratch<float>(0, rows * 2 * inner);
  product<T>(x, gate_up.depth, gate_up, c, 2 * inner, rows);
  const auto& k = active<T>();
  over_rows(rows, 16 * inner, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) k.silu_mul(c + m * 2 * inner, c + m * 2 * inner + inner, a + m * inner, inner);
  });
}

// out[rows, D] = (residual +) down(silu(gate x) * up x); out may be strided by its width only.
template <typename T>
void mlp(const T* x, int64_t rows, const Matrix<T>& gate_up, const Matrix<T>& down, const T* residual, T* out) {
  T* a = scratch<T>(1, rows * down.depth);
  gated<T>(x, rows, gate_up, a);
  float* c = scratch<float>(0, rows * down.columns);
  product<T>(a, down.depth, down, c, down.columns, rows);
  active<T>().store(c, residual, out, rows * down.columns);
}

}  // namespace caracal
