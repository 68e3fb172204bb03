// Products of rows with a weight matrix, over packed weights. Included by body.h, whose helpers it uses.
//
// A packed matrix is cut into blocks of 64 columns (its output rows), of which the last may have 16, 32 or 48. A block
// holds, step by step along the depth, the step's values of all its columns: 2 values of each for bf16, 1 for fp32. So a
// block is one stream through memory, and an output is one lane of one accumulator that walks the depth in order: no
// sums across lanes, and nothing that depends on which rows or columns are computed together.
#pragma once

namespace caracal {
namespace {

// Rows x Panels accumulators of 16 columns each, over the whole depth. `stride`: the block's panels. `Onto`: c holds the
// sums over the inputs before these.
template <typename T, bool Onto, int Rows, int Panels>
inline void tile(const T* x, int64_t ldx, const T* w, int64_t stride, float* c, int64_t ldc, int64_t depth,
                 int64_t columns) {
  using D = Dot<T>;
  constexpr int vecs = Panels * kPanel / Simd::lanes;
  vec acc[Rows][vecs];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < vecs; ++n)
      if constexpr (Onto) {
        acc[m][n] = Simd::load(c + m * ldc + n * Simd::lanes);
      } else {
        acc[m][n] = Simd::zero();
      }
  const int64_t step = stride * kPanel * D::together;
  int64_t k = 0;
  for (; k + D::together <= depth; k += D::together, w += step) {
    typename D::in wk[vecs];
    for (int n = 0; n < vecs; ++n) wk[n] = D::load(w + n * Simd::lanes * D::together);
    for (int m = 0; m < Rows; ++m) {
      const typename D::in xk = D::spread(x + m * ldx + k);
      for (int n = 0; n < vecs; ++n) acc[m][n] = D::mac(acc[m][n], xk, wk[n]);
    }
  }
  if (k < depth) {
    for (int m = 0; m < Rows; ++m) {
      const typename D::in xk = D::spread_last(x + m * ldx + k);
      for (int n = 0; n < vecs; ++n) acc[m][n] = D::mac(acc[m][n], xk, D::load(w + n * Simd::lanes * D::together));
    }
  }
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < vecs; ++n) {
      const int64_t left = columns - n * Simd::lanes;
      if (left > 0) store_some(c + m * ldc + n * Simd::lanes, acc[m][n], std::min<int64_t>(left, Simd::lanes));
    }
}

template <typename T, bool Onto, int Panels, int Most, int Rows = Most>
inline void tile_of(int64_t rows, const T* x, int64_t ldx, const T* w, int64_t stride, float* c, int64_t ldc, int64_t depth,
                    int64_t columns) {
  if (rows == Rows) return tile<T, Onto, Rows, Panels>(x, ldx, w, stride, c, ldc, depth, columns);
  if constexpr (Rows > 1) tile_of<T, Onto, Panels, Most, Rows - 1>(rows, x, ldx, w, stride, c, ldc, depth, columns);
}

// All rows against some panels of a block, rows in parts as equal as can be: 8 rows are 4 and 4 rather than 6 and 2.
template <typename T, bool Onto, int Panels, int Most>
inline void panels(const T* x, int64_t ldx, const T* w, int64_t stride, float* c, int64_t ldc, int64_t rows, int64_t depth,
                   int64_t columns) {
  for (int64_t m = 0; m < rows;) {
    const int64_t parts = (rows - m + Most - 1) / Most, some = (rows - m + parts - 1) / parts;
    tile_of<T, Onto, Panels, Most>(some, x + m * ldx, ldx, w, stride, c + m * ldc, ldc, depth, columns);
    m += some;
  }
}

// c[m, n] for the columns of one packed block; `Onto` takes whole panels only.
template <typename T, bool Onto = false>
void multiply(const T* x, int64_t ldx, const T* w, float* c, int64_t ldc, int64_t rows, int64_t columns, int64_t depth) {
  const int64_t stride = (columns + kPanel - 1) / kPanel;
  int64_t panel = 0;
  auto take = [&]<int Panels, int Most>() {
    for (; panel + Panels <= stride; panel += Panels) {
      const T* at = w + panel * kPanel * Dot<T>::together;
      panels<T, Onto, Panels, Most>(x, ldx, at, stride, c + panel * kPanel, ldc, rows, depth, columns - panel * kPanel);
    }
  };
  if constexpr (Simd::most_panels == 4) {
    take.template operator()<4, Simd::max_rows>();
    take.template operator()<2, 2 * Simd::max_rows>();
  } else if (rows == 1) {  // too few registers for more rows; one row's chains must overlap
    take.template operator()<4, 1>();
  }
  take.template operator()<1, 2 * Simd::max_rows>();
}

// Packs `columns` rows of w into one block; what fills up the last panel and the last step is zero.
template <typename T>
void pack(const T* w, int64_t ldw, int64_t columns, int64_t depth, T* out) {
  constexpr int64_t together = Dot<T>::together, square = Simd::lanes * together;
  const int64_t width = (columns + kPanel - 1) / kPanel * kPanel;
  for (int64_t n = 0; n < width; n += Simd::lanes) {
    int64_t k = 0;
    if (n + Simd::lanes <= columns)
      for (; k + square <= depth; k += square)
        Simd::transpose_words(w + n * ldw + k, ldw * static_cast<int64_t>(sizeof(T)), out + (k / together * width + n) * together,
                              width * together * static_cast<int64_t>(sizeof(T)));
    for (; k < depth; ++k)
      for (int64_t i = n; i < n + Simd::lanes; ++i)
        out[(k / together * width + i) * together + k % together] = i < columns ? w[i * ldw + k] : T{};
    if (depth % together)
      for (int64_t i = n; i < n + Simd::lanes; ++i) out[(depth / together * width + i) * together + 1] = T{};
  }
}

}  // namespace
}  // namespace caracal
