// What the ops share: argument checks that name op and argument, dispatch on dtype, products over torch's threads.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "isa.h"

namespace caracal {

using at::Tensor;
using std::optional;

inline void check(const char* op, const char* name, const Tensor& t, at::ScalarType dtype, int64_t dims) {
  TORCH_CHECK(t.device().is_cpu(), op, ": ", name, " is not on the CPU");
  TORCH_CHECK(t.scalar_type() == dtype, op, ": ", name, " is ", t.scalar_type(), ", expected ", dtype);
  TORCH_CHECK(t.dim() == dims, op, ": ", name, " has ", t.dim(), " dimensions, expected ", dims);
  TORCH_CHECK(t.is_contiguous(), op, ": ", name, " is not contiguous");
}

inline void check_size(const char* op, const char* name, const Tensor& t, int64_t dim, int64_t size) {
  TORCH_CHECK(t.size(dim) == size, op, ": ", name, " has size ", t.size(dim), " in dimension ", dim, ", expected ", size);
}

inline at::ScalarType model_dtype(const char* op, const char* name, const Tensor& t) {
  auto dtype = t.scalar_type();
  TORCH_CHECK(dtype == at::kBFloat16 || dtype == at::kFloat, op, ": ", name, " is ", dtype, ", expected bfloat16 or float32");
  return dtype;
}

template <typename F>
auto by_dtype(at::ScalarType dtype, F&& body) {
  return dtype == at::kBFloat16 ? body(bf16{}) : body(float{});
}

template <typename T>
T* ptr(const Tensor& t) {
  return reinterpret_cast<T*>(t.data_ptr());
}

constexpr int64_t kFlopsPerThread = 1 << 19;  // below this a second thread costs more than it brings

// c[rows, n] = x w^T over torch's threads. Threads split columns only.
template <typename T>
void product(const T* x, int64_t ldx, const T* w, int64_t ldw, float* c, int64_t ldc, int64_t rows, int64_t n, int64_t depth) {
  if (!rows) return;
  constexpr int64_t step = 8;
  int64_t grain = std::max<int64_t>(1, kFlopsPerThread / std::max<int64_t>(1, rows * depth * step));
  at::parallel_for(0, (n + step - 1) / step, grain, [&](int64_t begin, int64_t end) {
    active<T>().gemm(x, ldx, w, ldw, c, ldc, rows, begin * step, std::min(n, end * step), depth);
  });
}

// body(begin, end) over rows that cost `flops` each, over torch's threads.
template <typename F>
void over_rows(int64_t rows, int64_t flops, F&& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kFlopsPerThread / std::max<int64_t>(1, flops)), body);
}

// Scratch that lives as long as its thread; grows, never shrinks below its largest use.
template <typename T>
T* scratch(int number, int64_t count) {
  thread_local std::vector<T> buffers[8];
  auto& buffer = buffers[number];
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

// a[rows, F] = round(silu(gate x) * up x)
template <typename T>
void gated(const T* x, int64_t rows, int64_t hidden, const T* gate_up, int64_t inner, T* a) {
  float* c = scratch<float>(0, rows * 2 * inner);
  product<T>(x, hidden, gate_up, hidden, c, 2 * inner, rows, 2 * inner, hidden);
  const auto& k = active<T>();
  over_rows(rows, 16 * inner, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) k.silu_mul(c + m * 2 * inner, c + m * 2 * inner + inner, a + m * inner, inner);
  });
}

// out[rows, D] = (residual +) down(silu(gate x) * up x); out may be strided by its width only.
template <typename T>
void mlp(const T* x, int64_t rows, int64_t hidden, const T* gate_up, const T* down, int64_t inner, const T* residual, T* out) {
  T* a = scratch<T>(1, rows * inner);
  gated<T>(x, rows, hidden, gate_up, inner, a);
  float* c = scratch<float>(0, rows * hidden);
  product<T>(a, inner, down, inner, c, hidden, rows, hidden, inner);
  active<T>().store(c, residual, out, rows * hidden);
}

}  // namespace caracal
