#include "draw.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace caracal::stack {
namespace {

template <class T>
Tensor view(std::vector<T>& values, int64_t rows, const char* name) {
  TORCH_CHECK(static_cast<int64_t>(values.size()) == rows, "draw: ", name, " has ", values.size(), " values for ", rows, " rows");
  return at::from_blob(values.data(), {rows}, at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

template <class T>
std::vector<T> numbers(const Tensor& values) {
  const T* first = values.const_data_ptr<T>();
  return {first, first + values.numel()};
}

}  // namespace

Drawn draw(const Tensor& logits, Sampling& sampling) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const int64_t rows = logits.size(0);
  const auto [checksum, finite] = row_checks(logits);
  const auto drawable = [&] {  // the op must not get NaN or infinity
    const bool* first = finite.const_data_ptr<bool>();
    const bool all = std::find(first, first + rows, false) == first + rows;
    return all ? logits : at::where(finite.unsqueeze(1), logits, at::zeros({}, logits.options()));
  }();
  const Tensor ids = sample(drawable, view(sampling.seeds, rows, "seeds"), view(sampling.positions, rows, "positions"),
                            view(sampling.temperature, rows, "temperature"), view(sampling.top_k, rows, "top_k"),
                            view(sampling.top_p, rows, "top_p"), view(sampling.min_p, rows, "min_p"));
  const bool* first = finite.const_data_ptr<bool>();
  return {numbers<int64_t>(ids), numbers<int64_t>(checksum), {first, first + rows}};
}

}  // namespace caracal::stack
