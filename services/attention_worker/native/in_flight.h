// One layer's rows on their way to the experts and back.
//
// Legend: T tokens, A (row, expert) assignments, D hidden.
#pragma once
#include "routes.h"

namespace caracal::stack {

class InFlight {
 public:
  // Runs the gate over `h` [T, D] and sends the rows.
  InFlight(std::shared_ptr<const Routes> routes, uint64_t step, size_t layer, Tensor h, const Tensor& classifier,
           const Tensor& bias, const Tensor& positions);
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
  // Gives up what has not come.
  ~InFlight();

  // Waits for the replies; returns whether all have come and are finite. Where routes leave overdue calls to the caller,
  // some may be pending still.
  bool wait();
  // residual + MoE(h), [T, D], after a wait that returned true.
  Tensor finish(const Tensor& residual) const;

  // Ends with the exchange, whose replies have been taken in: what is left are tensors.
  void conclude();
  // Gives the exchange to the caller, who releases it and keeps the tensors until then.
  wire::Exchange* take_exchange() { return std::exchange(exchange_, nullptr); }

  const std::shared_ptr<const Routes> routes;
  const uint64_t step;
  const size_t layer;
  const Tensor h;
  Tensor ids, weights, zero, row, row_count, row_of, expert, count, reply_index, y;
  int64_t messages = 0;
  double sent_s = 0, waits_since_s = 0;  // of the clock of time.perf_counter

 private:
  void send();
  void count_start() const;

  wire::Exchange* exchange_ = nullptr;
};

}  // namespace caracal::stack
