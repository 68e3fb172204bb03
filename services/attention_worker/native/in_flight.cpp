#include "in_flight.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <ctime>

namespace caracal::stack {
namespace {

double now_s() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

InFlight::InFlight(std::shared_ptr<const Routes> routes_, uint64_t step_, size_t layer_, Tensor h_, const Tensor& classifier,
                   const Tensor& bias, const Tensor& positions)
    : routes(std::move(routes_)), step(step_), layer(layer_), h(std::move(h_)) {
  std::tie(ids, weights, zero, row, row_count, row_of, expert, count, reply_index) =
      route_rows(h, classifier, bias, routes->gate, positions, static_cast<int64_t>(layer), routes->replica_offset[layer],
                 routes->worker[layer], routes->serial.numel());
  if (routes->drops_zero) zero = at::zeros_like(zero);
  y = at::empty({row_of.size(0), h.size(1)}, h.options());
  const int32_t* counts = count.const_data_ptr<int32_t>();
  messages = std::count_if(counts, counts + count.numel(), [](int32_t each) { return each > 0; });
  if (messages) send();
  sent_s = now_s();
  count_start();
}

InFlight::~InFlight() { conclude(); }

void InFlight::conclude() {
  if (wire::Exchange* exchange = take_exchange()) routes->scatterer->release(exchange);
}

void InFlight::send() {
  const size_t row_bytes = static_cast<size_t>(h.size(1)) * h.element_size();
  wire::Scatter scatter;
  scatter.step = step;
  scatter.epoch = routes->epoch;
  scatter.layer = static_cast<uint32_t>(layer);
  scatter.deadline_ms = static_cast<uint32_t>(std::max(1.0, routes->timeout_s * 1000));
  scatter.hidden = static_cast<uint32_t>(h.size(1));
  scatter.dtype = routes->dtype;
  scatter.planes = {{static_cast<const char*>(h.const_data_ptr()), row_bytes}};
  scatter.workers = static_cast<size_t>(count.numel());
  scatter.serial = routes->serial.const_data_ptr<int64_t>();
  scatter.row = row.const_data_ptr<int32_t>();
  scatter.row_count = row_count.const_data_ptr<int32_t>();
  scatter.row_of = row_of.const_data_ptr<int32_t>();
  scatter.expert = expert.const_data_ptr<int32_t>();
  scatter.count = count.const_data_ptr<int32_t>();
  scatter.reply = static_cast<char*>(y.mutable_data_ptr());
  scatter.reply_row_bytes = row_bytes;
  exchange_ = routes->scatterer->scatter(scatter);
}

void InFlight::count_start() const {
  const int64_t tokens = ids.size(0), choices = ids.size(1), rows = row.numel(), assignments = row_of.numel();
  const int64_t row_bytes = h.size(1) * static_cast<int64_t>(h.element_size());
  int64_t all_zero = 0;
  const int32_t* index = reply_index.const_data_ptr<int32_t>();
  for (int64_t t = 0; t < tokens; ++t, index += choices) {
    all_zero += std::all_of(index, index + choices, [](int32_t each) { return each < 0; });
  }
  int64_t* sums = routes->counts_of(layer);
  add<int64_t>(sums[kLayerCalls], 1);
  add(sums[kTokens], tokens);
  add(sums[kTokensAllZero], all_zero);
  add(sums[kChoices], tokens * choices);
  add(sums[kFfnChoices], assignments);  // every expert has a replica
  add(sums[kIfAllFfn], tokens * choices * row_bytes);
  add(sums[kMessages], messages);
  add(sums[kRows], rows);
  add(sums[kAssignments], assignments);
  add(sums[kSent], rows * row_bytes);
}

bool InFlight::wait() {
  waits_since_s = now_s();
  double arrived_s = sent_s;
  if (exchange_) {
    const wire::Waited waited = routes->scatterer->wait(*exchange_, routes->timeout_s, routes->leaves_overdue);
    if (!waited.all_well) return false;
    arrived_s = std::max(arrived_s, waited.arrived_s);
  }
  const double ended_s = now_s();
  double* sums = routes->seconds_of(layer);
  add(sums[kExposed], ended_s - waits_since_s);
  add(sums[kRoundTrip], arrived_s - sent_s + ended_s - std::max(waits_since_s, arrived_s));
  add(routes->counts_of(layer)[kReceived], static_cast<int64_t>(y.nbytes()));
  return true;
}

Tensor InFlight::finish(const Tensor& residual) const { return combine(y, reply_index, weights, zero, h, residual); }

}  // namespace caracal::stack
