// What the exchange with experts needs beside a layer's rows, and the counters of what it did.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../transport/native/scatterer.h"
#include "ops.h"

namespace caracal::stack {

// The columns of the counters, by their names in LayerStats.
enum Count {
  kLayerCalls, kChoices, kFfnChoices, kTokens, kTokensAllZero, kMessages, kRows, kAssignments, kSent, kReceived, kIfAllFfn,
  kCounts
};
constexpr std::array<const char*, kCounts> kCountNames = {
    "layer_calls", "choices",          "ffn_choices", "tokens",         "tokens_all_zero", "messages_sent",
    "rows_sent",   "assignments_sent", "bytes_sent",  "bytes_received", "bytes_if_all_ffn"};
enum Seconds { kExposed, kRoundTrip, kSeconds };
constexpr std::array<const char*, kSeconds> kSecondsNames = {"exposed_s", "round_trip_s"};

// Sums that one thread adds to while others read them.
template <class T>
void add(T& sum, T value) {
  std::atomic_ref<T> shared(sum);
  shared.store(shared.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

// A placement table, the sessions with its workers, and the gate's settings. It holds as long as the scatterer has this
// generation.
struct Routes {
  std::shared_ptr<void> owner;  // of the scatterer
  wire::Scatterer* scatterer;
  uint64_t generation, epoch;
  Tensor serial;                               // int64, each worker's session
  std::vector<Tensor> replica_offset, worker;  // of each layer, as `plan_rows` takes them
  Gate gate;
  bool drops_zero;
  uint32_t dtype;  // of rows, as frames name it
  double timeout_s;
  bool leaves_overdue;                         // a wait ends when a call is overdue: a replica is to be asked
  Tensor counts, seconds;  // [layers, kCounts] int64, [layers, kSeconds] float64
  Tensor shadow;           // int64 [1]: of 2^32, the share of layers' calls that are kept, to be computed again elsewhere

  // Whether a layer's calls are kept in this step; a hash decides, as in services/router/dispatch/shadow_share.py.
  bool keeps(uint64_t step, size_t layer) const {
    const int64_t share = std::atomic_ref<int64_t>(*shadow.data_ptr<int64_t>()).load(std::memory_order_relaxed);
    if (share <= 0) return false;
    uint64_t mixed = step * 0x9E3779B97F4A7C15u + (layer + 1) * 0xD1B54A32D192ED03u;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return static_cast<int64_t>((mixed ^ (mixed >> 31)) >> 32) < share;
  }

  int64_t* counts_of(size_t layer) const { return counts.data_ptr<int64_t>() + layer * kCounts; }
  double* seconds_of(size_t layer) const { return seconds.data_ptr<double>() + layer * kSeconds; }
};

}  // namespace caracal::stack
