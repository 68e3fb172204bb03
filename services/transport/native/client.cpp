#include "client.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace caracal::wire {
namespace {

constexpr uint64_t kWake = ~uint64_t{0};
constexpr int kEvents = 64;
constexpr size_t kRememberedEnds = 1024;
constexpr int kFlushPollMs = 5;  // until the flusher looks whether the engine waits and sends itself

}  // namespace

Client::Client(ClientOptions options)
    : options_(options), spin_(options.spin_s), epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (epoll_ < 0 || wake_ < 0) throw std::runtime_error("no file descriptors are left");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWake;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  flusher_ = std::thread(&Client::flush_loop, this);
}

Client::~Client() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    flush_.notify_all();
  }
  flusher_.join();
  sessions_.clear();
  close(wake_);
  close(epoll_);
}

int64_t Client::add(int fd, uint64_t session, const std::string& keys) {
  std::lock_guard lock(mutex_);
  const uint64_t serial = next_serial_++;
  ++generation_;
  auto& added = sessions_[serial] = std::make_unique<Session>(fd, session, serial, options_.reply_dtype, latencies_, keys);
  added->most_beats = options_.silent_beats;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = serial;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) added->end(strerror(errno));
  return static_cast<int64_t>(serial);
}

void Client::end(int64_t serial, const char* why) {
  std::lock_guard lock(mutex_);
  const auto found = sessions_.find(static_cast<uint64_t>(serial));
  if (found == sessions_.end()) return;
  found->second->end(why);
  forget_ended();
  wake();
}

std::string Client::why_over(int64_t serial) {
  std::lock_guard lock(mutex_);
  forget_ended();
  if (sessions_.count(static_cast<uint64_t>(serial))) return "";
  const auto found = ended_.find(static_cast<uint64_t>(serial));
  if (found == ended_.end()) return "the session is over";
  const std::string why = found->second;
  ended_.erase(found);
  return why;
}

void Client::touch() {
  std::lock_guard lock(mutex_);
  ++generation_;
}

uint64_t Client::generation() {
  std::lock_guard lock(mutex_);
  return generation_;
}

size_t Client::sessions() {
  std::lock_guard lock(mutex_);
  return sessions_.size();
}

void Client::forget_ended() {
  any_ended_ = false;
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    if (!at->second->over()) {
      ++at;
      continue;
    }
    if (ended_.size() > kRememberedEnds) ended_.clear();
    ended_[at->first] = at->second->why();
    ++generation_;
    at = sessions_.erase(at);
  }
}

void Client::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);  // full: it wakes all the same
}

Exchange* Client::scatter(const Scatter& scatter) {
  std::lock_guard lock(mutex_);
  if (free_.empty()) {
    exchanges_.push_back(std::make_unique<Exchange>());
    free_.push_back(exchanges_.back().get());
  }
  Exchange* exchange = free_.back();
  free_.pop_back();
  if (exchange->calls.size() < scatter.workers) exchange->calls.resize(scatter.workers);
  exchange->used = exchange->pending = 0;
  size_t row = 0, first = 0;
  bool unsent = false;
  for (size_t worker = 0; worker < scatter.workers; ++worker) {
    const size_t rows = static_cast<size_t>(scatter.row_count[worker]), count = static_cast<size_t>(scatter.count[worker]);
    if (count && scatter.serial[worker] >= 0) {
      Call& call = exchange->calls[exchange->used++];
      ++exchange->pending;
      call.exchange = exchange;
      call.worker = static_cast<uint32_t>(worker);
      call.serial = static_cast<uint64_t>(scatter.serial[worker]);
      call.outcome = Outcome::kPending;
      call.finite = true;
      call.header.rows = static_cast<uint32_t>(rows);
      call.header.assignments = static_cast<uint32_t>(count);
      call.reply = scatter.reply + first * scatter.reply_row_bytes;
      call.reply_bytes = count * scatter.reply_row_bytes;
      fill(call, scatter, scatter.row + row, scatter.row_of + first, scatter.expert + first);
      unsent |= send(call);
    }
    row += rows;
    first += count;
  }
  exchange->arrived_s = now_s();
  if (unsent) flush_.notify_one();
  return exchange;
}

void Client::fill(Call& call, const Scatter& scatter, const int32_t* row, const int32_t* row_of, const int32_t* expert) {
  Header& header = call.header;
  header.kind = Kind::kCall;
  header.step = scatter.step;
  header.epoch = scatter.epoch;
  header.layer = scatter.layer;
  header.deadline_ms = scatter.deadline_ms;
  header.hidden = scatter.hidden;
  header.dtype = scatter.dtype;
  const size_t id_bytes = header.assignments * sizeof(int32_t);
  Outgoing& out = call.out;
  out.clear();
  out.add(&header, sizeof header);
  const size_t ids = out.pieces();
  out.add(row_of, id_bytes);
  out.add(expert, id_bytes);
  for (const Plane& plane : scatter.planes) {
    for (size_t i = 0; i < header.rows; ++i) out.add(plane.at + static_cast<size_t>(row[i]) * plane.bytes, plane.bytes);
  }
  header.body_bytes = out.left() - sizeof header;
  header.body_crc = out.crc32c_from(ids);
}

bool Client::send(Call& call) {
  const auto found = sessions_.find(call.serial);
  if (found == sessions_.end()) {
    call.outcome = Outcome::kLost;
    call.message = "the session is over";
    --call.exchange->pending;
    return false;
  }
  Session& session = *found->second;
  session.send(call);
  watch_output(session);
  return session.unsent();
}

void Client::watch_output(Session& session) {
  if (session.over()) {
    any_ended_ = true;
    return;
  }
  if (session.unsent() == session.polls_output) return;
  session.polls_output = session.unsent();
  epoll_event event{};
  event.events = EPOLLIN | (session.polls_output ? EPOLLOUT : 0u);
  event.data.u64 = session.serial;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, session.fd(), &event);
}

// Serves what the sockets have; returns whether there was anything. It sleeps, without the lock, for `timeout_ms`.
bool Client::pump(int timeout_ms, std::unique_lock<std::mutex>& lock) {
  epoll_event events[kEvents];
  if (timeout_ms) lock.unlock();
  const int ready = epoll_wait(epoll_, events, kEvents, timeout_ms);
  if (timeout_ms) lock.lock();
  for (int i = 0; i < ready; ++i) {
    if (events[i].data.u64 == kWake) {
      uint64_t count;
      [[maybe_unused]] const ssize_t taken = ::read(wake_, &count, sizeof count);
      continue;
    }
    const auto found = sessions_.find(events[i].data.u64);
    if (found == sessions_.end()) continue;  // it ended while this thread slept
    Session& session = *found->second;
    if (events[i].events & EPOLLOUT) session.send_waiting();
    if (events[i].events & ~static_cast<uint32_t>(EPOLLOUT)) session.receive();
    watch_output(session);
  }
  return ready > 0;
}

void Client::set_limits(int64_t serial, const std::array<double, kSizes>& overdue_after_s, int silent_beats) {
  std::lock_guard lock(mutex_);
  const auto found = sessions_.find(static_cast<uint64_t>(serial));
  if (found == sessions_.end()) return;
  found->second->overdue_after_s = overdue_after_s;
  found->second->most_beats = silent_beats;
}

std::vector<Latency> Client::take_latencies() {
  std::lock_guard lock(mutex_);
  return std::exchange(latencies_, {});
}

uint64_t Client::answered(int64_t serial) {
  std::lock_guard lock(mutex_);
  const auto found = sessions_.find(static_cast<uint64_t>(serial));
  return found == sessions_.end() ? 0 : found->second->answered;
}

void Client::release(Exchange* exchange) {
  std::lock_guard lock(mutex_);
  if (exchange->pending) give_up(*exchange);
  free_.push_back(exchange);
}

void Client::flush_loop() {
  std::unique_lock lock(mutex_);
  std::vector<pollfd> sockets;
  for (;;) {
    sockets.clear();
    flush_.wait(lock, [&] {
      if (stopping_ || waiting_) return stopping_;
      for (const auto& [serial, session] : sessions_) {
        if (session->unsent()) sockets.push_back({session->fd(), POLLOUT, 0});
      }
      return !sockets.empty();
    });
    if (stopping_) return;
    lock.unlock();
    poll(sockets.data(), sockets.size(), kFlushPollMs);
    lock.lock();
    for (const auto& [serial, session] : sessions_) {
      if (waiting_ || !session->unsent()) continue;
      session->send_waiting();
      watch_output(*session);
    }
  }
}

}  // namespace caracal::wire
