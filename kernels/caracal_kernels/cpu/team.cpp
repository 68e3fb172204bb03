#include "team.h"

#include <ATen/Parallel.h>
#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

namespace caracal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPolls = std::chrono::microseconds(100);     // before a helper sleeps
constexpr auto kOthersRan = std::chrono::microseconds(20);  // a yield to nobody takes less than one
constexpr int64_t kPartsPerThread = 4;                      // so that a thread that is late is not waited for long

// The state of a team: the number of the op, whether it may be joined, and how many helpers have joined it.
constexpr uint64_t kOpen = 1 << 16, kNext = kOpen << 1, kJoined = kOpen - 1;

class Team {
 public:
  explicit Team(int64_t threads) {
    for (int64_t i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
  }
  ~Team() {
    stopping_ = true;
    wake();
    for (auto& helper : helpers_) helper.join();
  }

  int64_t threads() const { return static_cast<int64_t>(helpers_.size()) + 1; }

  void run(int64_t count, int64_t grain, TeamBody run, const void* body) {
    run_ = run, body_ = body, count_ = count;
    failing_ = false, failed_ = nullptr;
    part_ = std::max(grain, count / (kPartsPerThread * threads()));
    next_.store(0, std::memory_order_relaxed);
    state_.store(((state_.load(std::memory_order_relaxed) & ~(kNext - 1)) + kNext) | kOpen);
    if (sleeping_.load()) wake();
    work();
    state_.fetch_and(~kOpen);
    while (state_.load(std::memory_order_acquire) & kJoined) _mm_pause();
    if (failed_) std::rethrow_exception(failed_);
  }

 private:
  void work() {
    for (;;) {
      const int64_t begin = next_.fetch_add(part_, std::memory_order_relaxed);
      if (begin >= count_) return;
      try {
        run_(body_, begin, std::min(count_, begin + part_));
      } catch (...) {
        if (!failing_.exchange(true)) failed_ = std::current_exception();
        return;
      }
    }
  }

  void help() {
    for (uint64_t seen = 0; !stopping_;) {
      uint64_t state = wait(seen);
      while (state & kOpen)
        if (state_.compare_exchange_weak(state, state + 1)) {
          work();
          state_.fetch_sub(1, std::memory_order_release);
          break;
        }
      seen = state / kNext;
    }
  }

  // The state when it is of another op than `seen`, after polling and, if need be, sleeping; any state at the end.
  uint64_t wait(uint64_t seen) {
    auto until = Clock::now() + kPolls;
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        const uint64_t state = state_.load(std::memory_order_acquire);
        if (state / kNext != seen) return state;
        _mm_pause();
      }
      const auto now = Clock::now();
      sched_yield();
      if (now < until && Clock::now() - now < kOthersRan) continue;
      const uint32_t wakes = wakes_.load();
      ++sleeping_;
      if (const uint64_t state = state_.load(); state / kNext == seen && !stopping_) wakes_.wait(wakes);
      --sleeping_;
      if (stopping_) return state_.load();
      until = Clock::now() + kPolls;
    }
  }

  void wake() {
    ++wakes_;
    wakes_.notify_all();
  }

  std::vector<std::thread> helpers_;
  std::atomic<uint64_t> state_{0};
  std::atomic<uint32_t> wakes_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stopping_{false}, failing_{false};
  std::atomic<int64_t> next_{0};
  TeamBody run_ = nullptr;
  const void* body_ = nullptr;
  int64_t count_ = 0, part_ = 1;
  std::exception_ptr failed_;
};

}  // namespace

void run_team(int64_t count, int64_t grain, TeamBody run, const void* body) {
  thread_local std::unique_ptr<Team> team;
  const int64_t threads = count < 2 * grain ? 1 : at::get_num_threads();
  if (threads == 1) {
    if (count > 0) run(body, 0, count);
    return;
  }
  if (!team || team->threads() != threads) team = std::make_unique<Team>(threads);
  team->run(count, grain, run, body);
}

}  // namespace caracal
