// linear, rms_norm, swiglu, swiglu_inner, grouped_swiglu, combine.
#include "weights.h"

namespace caracal {

Tensor linear(const Tensor& x, const Tensor& w, const optional<Tensor>& residual, optional<at::ScalarType> out_dtype) {
  auto dtype = model_dtype("linear", "x", x);
  check("linear", "x", x, dtype, 2);
  const MatrixShape shape = matrix_shape("linear", "w", w, dtype);
  int64_t rows = x.size(0), n = shape.columns, depth = x.size(1);
  check_depth("linear", "w", shape, depth);
  auto out_type = out_dtype.value_or(dtype);
  TORCH_CHECK(out_type == dtype || out_type == at::kFloat, "linear: out_dtype is ", out_type, ", expected x's or float32");
  if (residual) {
    check("linear", "residual", *residual, out_type, 2);
    check_size("linear", "residual", *residual, 0, rows);
    check_size("linear", "residual", *residual, 1, n);
  }
  Tensor out = at::empty({rows, n}, x.options().dtype(out_type));
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    bool direct = out_type == at::kFloat && !residual;
    float* c = direct ? ptr<float>(out) : scratch<float>(0, rows * n);
    product<T>(ptr<T>(x), depth, shape.matrix<T>(w), c, n, rows);
    if (direct) return;
    if (out_type == at::kFloat) {
      active<float>().store(c, ptr<float>(*residual), ptr<float>(out), rows * n);
    } else {
      active<T>().store(c, residual ? ptr<T>(*residual) : nullptr, ptr<T>(out), rows * n);
    }
  });
  return out;
}

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) {
  auto dtype = model_dtype("rms_norm", "x", x);
  check("rms_norm", "x", x, dtype, 2);
  check("rms_norm", "w", w, dtype, 1);
  check_size("rms_norm", "w", w, 0, x.size(1));
  Tensor out = at::empty_like(x);
  int64_t width = x.size(1);
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    over_rows(x.size(0), 4 * width, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        active<T>().rms_norm(ptr<T>(x) + m * width, ptr<T>(w), ptr<T>(out) + m * width, width, static_cast<float>(eps));
    });
  });
  return out;
}

struct MlpShape {
  MatrixShape gate_up, down;
};

MlpShape mlp_shape(const char* op, const Tensor& x, const Tensor& gate_up, const Tensor& down) {
  const auto dtype = x.scalar_type();
  MlpShape shape{matrix_shape(op, "gate_up", gate_up, dtype), matrix_shape(op, "down", down, dtype)};
  check_depth(op, "gate_up", shape.gate_up, x.size(1));
  check_columns(op, "down", shape.down, x.size(1));
  check_columns(op, "gate_up", shape.gate_up, 2 * shape.down.depth);
  return shape;
}

Tensor swiglu(const Tensor& x, const Tensor& gate_up, const Tensor& down, const optional<Tensor>& residual) {
  auto dtype = model_dtype("swiglu", "x", x);
  check("swiglu", "x", x, dtype, 2);
  const MlpShape shape = mlp_shape("swiglu", x, gate_up, down);
  if (residual) {
    check("swiglu", "residual", *residual, dtype, 2);
    TORCH_CHECK(residual->sizes() == x.sizes(), "swiglu: residual has another shape than x");
  }
  Tensor out = at::empty_like(x);
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    mlp<T>(ptr<T>(x), x.size(0), shape.gate_up.matrix<T>(gate_up), shape.down.matrix<T>(down),
           residual ? ptr<T>(*residual) : nullptr, ptr<T>(out));
  });
  return out;
}

Tensor swiglu_inner(const Tensor& x, const Tensor& gate_up) {
  const char* op = "swiglu_inner";
  auto dtype = model_dtype(op, "x", x);
  check(op, "x", x, dtype, 2);
  const MatrixShape shape = matrix_shape(op, "gate_up", gate_up, dtype);
  check_depth(op, "gate_up", shape, x.size(1));
  TORCH_CHECK(shape.columns % 2 == 0, op, ": gate_up has ", shape.columns, " rows, expected as many of gate as of up");
  int64_t inner = shape.columns / 2;
  Tensor out = at::empty({x.size(0), inner}, x.options());
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    gated<T>(ptr<T>(x), x.size(0), shape.matrix<T>(gate_up), ptr<T>(out));
  });
  return out;
}

Tensor grouped_swiglu(const Tensor& x, const Tensor& row, const Tensor& count, at::TensorList gate_up, at::TensorList down) {
  const char* op = "grouped_swiglu";
  auto dtype = model_dtype(op, "x", x);
  check(op, "x", x, dtype, 2);
  check(op, "row", row, at::kInt, 1);
  check(op, "expert_count", count, at::kInt, 1);
  TORCH_CHECK(gate_up.size() == static_cast<size_t>(count.size(0)) && down.size() == gate_up.size(), op,
              ": gate_up, down and expert_count differ in length");
  const int32_t* rows = ptr<int32_t>(row);
  const int32_t* counts = ptr<int32_t>(count);
  int64_t hidden = x.size(1), total = 0;
  std::vector<MlpShape> shapes;
  for (int64_t p = 0; p < row.size(0); ++p)
    TORCH_CHECK(rows[p] >= 0 && rows[p] < x.size(0), op, ": row[", p, "] = ", rows[p], " lies outside x");
  for (int64_t g = 0; g < count.size(0); ++g) {
    TORCH_CHECK(counts[g] >= 0, op, ": expert_count[", g, "] is negative");
    shapes.push_back(mlp_shape(op, x, gate_up[g], down[g]));
    total += counts[g];
  }
  TORCH_CHECK(total == row.size(0), op, ": expert_count sums to ", total, ", row has ", row.size(0));
  Tensor out = at::empty({row.size(0), hidden}, x.options());
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    int64_t begin = 0;
    for (int64_t g = 0; g < count.size(0); begin += counts[g++]) {
      T* gathered = scratch<T>(2, counts[g] * hidden);
      for (int64_t p = 0; p < counts[g]; ++p)
        std::copy_n(ptr<T>(x) + rows[begin + p] * hidden, hidden, gathered + p * hidden);
      mlp<T>(gathered, counts[g], shapes[g].gate_up.matrix<T>(gate_up[g]), shapes[g].down.matrix<T>(down[g]), nullptr,
             ptr<T>(out) + begin * hidden);
    }
  });
  return out;
}

Tensor combine(const Tensor& y, const Tensor& reply_index, const Tensor& weights, const Tensor& zero, const Tensor& h,
               const Tensor& residual) {
  const char* op = "combine";
  auto dtype = model_dtype(op, "h", h);
  check(op, "h", h, dtype, 2);
  check(op, "y", y, dtype, 2);
  check(op, "residual", residual, dtype, 2);
  check(op, "reply_index", reply_index, at::kInt, 2);
  check(op, "weights", weights, at::kFloat, 2);
  check(op, "zero", zero, at::kFloat, 1);
  int64_t tokens = h.size(0), width = h.size(1), choices = reply_index.size(1);
  check_size(op, "y", y, 1, width);
  check_size(op, "reply_index", reply_index, 0, tokens);
  check_size(op, "zero", zero, 0, tokens);
  TORCH_CHECK(weights.sizes() == reply_index.sizes(), op, ": weights has another shape than reply_index");
  TORCH_CHECK(residual.sizes() == h.sizes(), op, ": residual has another shape than h");
  const int32_t* at = ptr<int32_t>(reply_index);
  for (int64_t i = 0; i < tokens * choices; ++i)
    TORCH_CHECK(at[i] >= -1 && at[i] < y.size(0), op, ": reply_index points at a reply that is not there (", at[i], " of ",
                y.size(0), ")");
  Tensor out = at::empty_like(h);
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    const auto& k = active<T>();
    over_rows(tokens, 4 * (choices + 2) * width, [&](int64_t begin, int64_t end) {
      float* acc = scratch<float>(0, width);
      for (int64_t t = begin; t < end; ++t) {
        std::fill(acc, acc + width, 0.0f);
        for (int64_t s = 0; s < choices; ++s) {
          int32_t p = at[t * choices + s];
          if (p >= 0) k.add_scaled(acc, ptr<T>(y) + p * width, ptr<float>(weights)[t * choices + s], width);
        }
        k.add_scaled(acc, ptr<T>(h) + t * width, ptr<float>(zero)[t], width);
        k.store(acc, ptr<T>(residual) + t * width, ptr<T>(out) + t * width, width);
      }
    });
  });
  return out;
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) {
  m.impl("linear", &linear);
  m.impl("rms_norm", &rms_norm);
  m.impl("swiglu", &swiglu);
  m.impl("swiglu_inner", &swiglu_inner);
  m.impl("grouped_swiglu", &grouped_swiglu);
  m.impl("combine", &combine);
}

}  // namespace caracal
