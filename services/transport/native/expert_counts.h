// How many assignments of each (layer, expert) were computed. One thread adds, any may take.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace caracal::wire {

class ExpertCounts {
 public:
  ExpertCounts(uint32_t layers, uint32_t experts) : experts_(experts), counts_(size_t{layers} * experts) {}
  size_t size() const { return counts_.size(); }

  // A launch's assignments: `expert` ascends, and `count` says how many follow each other for the same expert.
  void add(uint32_t layer, const int32_t* expert, const std::vector<int32_t>& count) {
    std::atomic<uint64_t>* of_layer = counts_.data() + size_t{layer} * experts_;
    for (const int32_t n : count) {
      of_layer[*expert].fetch_add(static_cast<uint64_t>(n), std::memory_order_relaxed);
      expert += n;
    }
  }

  // Writes to `out` [layers * experts] what was added since the last taking.
  void take(int64_t* out) {
    for (std::atomic<uint64_t>& one : counts_) {
      // Most are zero, and reading keeps their cache lines with the thread that adds.
      const bool any = one.load(std::memory_order_relaxed);
      *out++ = any ? static_cast<int64_t>(one.exchange(0, std::memory_order_relaxed)) : 0;
    }
  }

 private:
  const size_t experts_;
  std::vector<std::atomic<uint64_t>> counts_;  // [layers * experts]
};

}  // namespace caracal::wire
