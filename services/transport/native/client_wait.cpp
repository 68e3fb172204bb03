// How the engine's thread waits for replies: it serves the sockets meanwhile, gives signs of life, and gives calls up.
#include <algorithm>
#include <limits>

#include "client.h"

namespace caracal::wire {

double Exchange::overdue_s() const {
  double first_s = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < used; ++i) {
    if (calls[i].outcome == Outcome::kPending) first_s = std::min(first_s, calls[i].overdue_s);
  }
  return first_s;
}

// When its peer is to give a sign of life, if nobody has asked lately: once it is overdue, or has taken a heartbeat.
double Client::asks_s(const Call& call) const { return std::min(call.sent_s + options_.heartbeat_s, call.overdue_s); }

// Serves the sockets until `done()` or `until_s`, with signs of life for what is pending of the exchanges.
template <class Done>
void Client::serve(std::unique_lock<std::mutex>& lock, std::span<Exchange* const> exchanges, double until_s,
                   const Done& done) {
  waiting_ = true;
  double spin_until_s = now_s() + spin_.seconds(), beat_s = std::numeric_limits<double>::infinity();
  for (const Exchange* exchange : exchanges) {
    for (size_t i = 0; i < exchange->used; ++i) {
      if (exchange->calls[i].outcome == Outcome::kPending) beat_s = std::min(beat_s, asks_s(exchange->calls[i]));
    }
  }
  while (!done()) {
    if (pump(0, lock)) continue;  // what has come counts before anybody is taken for silent
    const double now = now_s();
    if (now >= beat_s) {
      beat_s = beat(exchanges, now);
      if (done()) break;
    }
    if (now >= until_s) break;
    if (now >= spin_until_s || !spin_.yield()) {
      spin_until_s = 0;
      pump(1 + static_cast<int>(1000 * (std::min(beat_s, until_s) - now)), lock);
    }
  }
  waiting_ = false;
  if (any_ended_) forget_ended();
  // Waking the flusher costs more than a message: only when there is something for it.
  const auto unsent = [](const auto& each) { return each.second->unsent(); };
  if (std::any_of(sessions_.begin(), sessions_.end(), unsent)) flush_.notify_one();
}

Waited Client::wait(Exchange& exchange, double timeout_s, bool leaves_overdue) {
  std::unique_lock lock(mutex_);
  const double began_s = now_s(), until_s = began_s + timeout_s;
  double overdue_s = leaves_overdue ? exchange.overdue_s() : std::numeric_limits<double>::infinity();
  Exchange* const one[] = {&exchange};
  for (;;) {
    serve(lock, one, std::min(until_s, overdue_s), [&] { return exchange.pending == 0; });
    if (!exchange.pending) break;
    const double now = now_s();
    if (now >= until_s) {
      give_up(exchange);
      break;
    }
    overdue_s = exchange.overdue_s();  // others are pending now
    if (now >= overdue_s) break;
  }
  spin_.learn(now_s() - began_s);
  return {exchange.all_well(), exchange.arrived_s};
}

void Client::wait_for_one(std::span<Exchange* const> exchanges, double timeout_s) {
  std::unique_lock lock(mutex_);
  const auto pending = [&] {
    size_t sum = 0;
    for (const Exchange* exchange : exchanges) sum += exchange->pending;
    return sum;
  };
  const size_t before = pending();
  serve(lock, exchanges, now_s() + timeout_s, [&] { return pending() < before; });
}

std::vector<std::pair<uint32_t, double>> Client::pending(const Exchange& exchange) {
  std::lock_guard lock(mutex_);
  std::vector<std::pair<uint32_t, double>> found;
  for (size_t i = 0; i < exchange.used; ++i) {
    const Call& call = exchange.calls[i];
    if (call.outcome == Outcome::kPending) found.emplace_back(call.worker, call.overdue_s);
  }
  return found;
}

// Asks peers for a sign of life whose calls are pending and that were not asked for a heartbeat, and ends the sessions of
// those that have left too many in a row unanswered, in whichever waits; returns when the next are to be asked.
double Client::beat(std::span<Exchange* const> exchanges, double now) {
  double next_s = now + options_.heartbeat_s;
  for (const Exchange* exchange : exchanges) {
    for (size_t i = 0; i < exchange->used; ++i) {
      const Call& call = exchange->calls[i];
      if (call.outcome != Outcome::kPending) continue;
      const auto found = sessions_.find(call.serial);
      if (found == sessions_.end()) continue;
      Session& session = *found->second;
      const double due_s = std::max(asks_s(call), session.asked_s + options_.heartbeat_s);
      if (now < due_s) {
        next_s = std::min(next_s, due_s);
      } else {
        session.ask(now);
        watch_output(session);
      }
    }
  }
  return next_s;
}

void Client::give_up(Call& call, const char* why) {
  if (call.outcome != Outcome::kPending) return;
  const auto found = sessions_.find(call.serial);
  if (found != sessions_.end()) {
    found->second->forget(call);
    watch_output(*found->second);
  }
  call.outcome = Outcome::kLate;
  call.message = why;
  --call.exchange->pending;
}

void Client::give_up(Exchange& exchange) {
  for (size_t i = 0; i < exchange.used; ++i) give_up(exchange.calls[i], "it has not answered in time");
}

void Client::give_up(Exchange& exchange, uint32_t worker) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < exchange.used; ++i) {
    if (exchange.calls[i].worker == worker) give_up(exchange.calls[i], "another worker has answered first");
  }
}

}  // namespace caracal::wire
