// Launches without Python: the experts' weights, and the compiled op over them. The only part that knows torch.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "expert_counts.h"
#include "launch.h"

namespace caracal::wire {

// What direct launches have done since it was taken last.
struct LaunchCounts {
  uint64_t launches = 0, calls = 0, rows = 0, assignments = 0;
  double busy_s = 0;
  std::vector<double> waited_s;  // of each call
};

class ExpertTable {
 public:
  // `threads` are the kernels'.
  ExpertTable(uint32_t layers, uint32_t experts, uint32_t hidden, int threads);
  // Any thread may change it; a launch that runs keeps the weights that it began with.
  void set(uint32_t layer, uint32_t expert, at::Tensor gate_up, at::Tensor down);
  void drop(uint32_t layer, uint32_t expert);
  // Computes a launch. False: an expert is not here, or the op has failed; nothing was counted, Python is to answer.
  bool compute(const Launch& launch);
  LaunchCounts take_counts();
  // Of each (layer, expert), what direct launches have computed.
  ExpertCounts& assigned() { return assigned_; }
  // How long the launch that runs has lasted; 0 without one.
  double running_s() const;
  // When it began, and its assignments; zeros without one.
  std::pair<double, uint64_t> running() const { return {began_s_.load(), running_.load()}; }
  // The thread that runs it, as the kernel numbers it; 0 without one.
  int running_thread() const { return began_s_ > 0 ? thread_.load() : 0; }

 private:
  struct Weights {
    at::Tensor gate_up, down;
  };
  bool find(const Launch& launch);
  void replace(uint32_t layer, uint32_t expert, Weights weights);

  const uint32_t experts_, hidden_;
  int threads_;
  std::mutex mutex_;
  std::vector<Weights> weights_;  // [layers * experts]
  LaunchCounts counts_;
  ExpertCounts assigned_;
  std::atomic<double> began_s_{0};
  std::atomic<int> thread_{0};
  std::atomic<uint64_t> running_{0};  // assignments
  std::vector<at::Tensor> gate_up_, down_;  // of the launch
  std::vector<int32_t> count_;
};

}  // namespace caracal::wire
