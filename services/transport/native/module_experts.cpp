#include "module_experts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <unistd.h>

namespace caracal::wire {
namespace {

constexpr size_t kMaxWaits = 65536;  // between two takings; further calls are not in the histogram

at::Tensor compute_op(const at::Tensor& x, const at::Tensor& row, const at::Tensor& count, at::TensorList gate_up,
                      at::TensorList down) {
  using Op = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::TensorList, at::TensorList);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("caracal::grouped_swiglu", "").typed<Op>();
  return op.call(x, row, count, gate_up, down);
}

at::Tensor view(const void* at, std::initializer_list<int64_t> sizes, at::ScalarType dtype) {
  return at::from_blob(const_cast<void*>(at), sizes, at::TensorOptions().dtype(dtype));
}

}  // namespace

ExpertTable::ExpertTable(uint32_t layers, uint32_t experts, uint32_t hidden, int threads)
    : experts_(experts), hidden_(hidden), threads_(threads), weights_(size_t{layers} * experts), assigned_(layers, experts) {}

void ExpertTable::set(uint32_t layer, uint32_t expert, at::Tensor gate_up, at::Tensor down) {
  replace(layer, expert, {std::move(gate_up), std::move(down)});
}

void ExpertTable::drop(uint32_t layer, uint32_t expert) { replace(layer, expert, {}); }

// What was there is freed without the lock: a tensor that Python has seen waits for the GIL then, which a thread that
// waits for the lock may hold.
void ExpertTable::replace(uint32_t layer, uint32_t expert, Weights weights) {
  std::lock_guard lock(mutex_);
  std::swap(weights_.at(size_t{layer} * experts_ + expert), weights);
}

bool ExpertTable::find(const Launch& launch) {
  gate_up_.clear();
  down_.clear();
  count_.clear();
  std::lock_guard lock(mutex_);
  for (size_t a = 0; a < launch.assignments; ++a) {
    if (a && launch.expert[a] == launch.expert[a - 1]) {
      ++count_.back();
      continue;
    }
    const Weights& weights = weights_[size_t{launch.layer} * experts_ + static_cast<size_t>(launch.expert[a])];
    if (!weights.down.defined()) return false;
    gate_up_.push_back(weights.gate_up);
    down_.push_back(weights.down);
    count_.push_back(1);
  }
  return true;
}

bool ExpertTable::compute(const Launch& launch) {
  if (threads_) at::set_num_threads(std::exchange(threads_, 0));  // OpenMP keeps this number per thread
  if (!thread_) thread_ = gettid();  // the server's loop is one thread
  const bool found = find(launch);
  const double began_s = now_s();
  if (found) {
    running_ = launch.assignments;
    began_s_ = began_s;
    try {
      const c10::InferenceMode inference;
      // Weights of one launch may be in bf16 and in fp8, which is packed bytes: the rows are in bf16 then.
      const at::ScalarType stored = down_.front().scalar_type(), dtype = stored == at::kByte ? at::kBFloat16 : stored;
      const int64_t rows = static_cast<int64_t>(launch.rows), assignments = static_cast<int64_t>(launch.assignments);
      const at::Tensor y = compute_op(view(launch.payload, {rows, hidden_}, dtype), view(launch.row, {assignments}, at::kInt),
                                      view(count_.data(), {static_cast<int64_t>(count_.size())}, at::kInt), gate_up_, down_);
      TORCH_CHECK(y.nbytes() == launch.out_bytes && y.is_contiguous(), "the op's output has another size");
      std::memcpy(launch.out, y.const_data_ptr(), launch.out_bytes);
    } catch (const std::exception&) {
      began_s_ = 0;
      return false;  // Python repeats it, and says what is wrong
    }
    began_s_ = 0;
  }
  gate_up_.clear();  // what was dropped meanwhile is freed
  down_.clear();
  if (!found) return false;
  assigned_.add(launch.layer, launch.expert, count_);
  std::lock_guard lock(mutex_);
  ++counts_.launches;
  counts_.calls += launch.calls;
  counts_.rows += launch.rows;
  counts_.assignments += launch.assignments;
  counts_.busy_s += now_s() - began_s;
  for (size_t i = 0; i < launch.calls && counts_.waited_s.size() < kMaxWaits; ++i) {
    counts_.waited_s.push_back(launch.waited_s[i]);
  }
  return true;
}

LaunchCounts ExpertTable::take_counts() {
  std::lock_guard lock(mutex_);
  return std::exchange(counts_, {});
}

double ExpertTable::running_s() const {
  const double began_s = began_s_;
  return began_s > 0 ? now_s() - began_s : 0;
}

}  // namespace caracal::wire
