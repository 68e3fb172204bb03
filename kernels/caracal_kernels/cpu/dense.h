// What the ops share: argument checks that name op and argument, dispatch on dtype, threads.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "isa.h"
#include "team.h"

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

constexpr int64_t kFlopsPerThread = 1 << 17;  // below this a second thread brings less than it costs

// body(begin, end) over rows that cost `flops` each, over as many threads as torch gives.
template <typename F>
void over_rows(int64_t rows, int64_t flops, F&& body) {
  in_parallel(rows, std::max<int64_t>(1, kFlopsPerThread / std::max<int64_t>(1, flops)), body);
}

// Scratch that lives as long as its thread; grows, never shrinks below its largest use.
template <typename T>
T* scratch(int number, int64_t count) {
  thread_local std::vector<T> buffers[8];
  auto& buffer = buffers[number];
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

}  // namespace caracal
