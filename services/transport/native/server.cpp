#include "server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <stdexcept>

#include "greeting.h"

namespace caracal::wire {
namespace {

constexpr uint64_t kWake = ~uint64_t{0}, kListener = uint64_t{1} << 63;
constexpr int kEvents = 64;
constexpr size_t kMaxUnproven = 64;  // connections that have not shown a token yet
constexpr size_t kMaxEndings = 64;
constexpr double kHouseS = 0.5;

void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

// A vanished peer is noticed within seconds, also between calls. On a unix socket these do nothing.
void tune(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 10000);
}

}  // namespace

Server::Server(ServerOptions options, LaunchFunction launch)
    : options_(std::move(options)), launch_(std::move(launch)), merger_(options_.expected), spin_(options_.spin_s),
      epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (epoll_ < 0 || wake_ < 0) throw std::runtime_error("no file descriptors are left");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWake;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  loop_ = std::thread(&Server::loop, this);
  stand_in_ = std::thread(&Server::stand_in, this);
}

Server::~Server() { stop(); }

void Server::stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    wake();
    standing_in_.notify_all();
  }
  loop_.join();
  stand_in_.join();
  connections_.clear();
  for (int fd : listeners_) close(fd);
  close(wake_);
  close(epoll_);
}

void Server::end_sessions(const std::string& why) {
  std::lock_guard lock(mutex_);
  for (const auto& [serial, one] : connections_) one->end(why.c_str());
  remove_ended();
}

void Server::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
}

void Server::listen(int fd) {
  std::lock_guard lock(mutex_);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kListener | static_cast<uint64_t>(fd);
  listeners_.push_back(fd);
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
}

void Server::adopt(int fd) {
  std::lock_guard lock(mutex_);
  add(fd);
}

bool Server::expect(const std::string& token, uint64_t session, double ttl_s, const std::string& keys) {
  std::lock_guard lock(mutex_);
  const double now = now_s();
  std::erase_if(tokens_, [&](const auto& entry) { return entry.second.until_s < now; });
  if (trusted() + tokens_.size() >= options_.max_sessions) {
    Connection* idle = nullptr;
    for (const auto& [serial, one] : connections_) {
      if (one->trusted() && !one->over() && !one->has_called() && now - one->since_s > options_.idle_s) idle = one.get();
    }
    if (!idle) return false;
    idle->end("it made no call, and another session needs its place");
    remove_ended();
  }
  tokens_[token] = {session, now + ttl_s, keys};
  return true;
}

void Server::set_epoch(uint64_t epoch) {
  uint64_t before = epoch_;
  while (before < epoch && !epoch_.compare_exchange_weak(before, epoch)) {
  }
}

Grant Server::redeem(const char* token, const char* tag) {
  const auto found = tokens_.find(std::string(token, kTokenBytes));
  if (found == tokens_.end()) return {};
  const Token& one = found->second;
  Grant grant{one.session, callers_cipher(one.keys, Way::kDecrypt), workers_cipher(one.keys, Way::kEncrypt)};
  // Whoever has only seen the token cannot use it up.
  if (one.until_s < now_s() || !proven(grant.incoming.get(), token, tag)) return {};
  tokens_.erase(found);
  ++counters_.opened;
  return grant;
}

size_t Server::trusted() const {
  size_t count = 0;
  for (const auto& [serial, one] : connections_) count += one->trusted() && !one->over();
  return count;
}

size_t Server::sessions() {
  std::lock_guard lock(mutex_);
  return trusted();
}

ServerCounters Server::counters() {
  std::lock_guard lock(mutex_);
  return counters_;
}

std::vector<std::string> Server::endings() {
  std::lock_guard lock(mutex_);
  return std::exchange(endings_, {});
}

void Server::answered(bool ok) {
  ++counters_.answered;
  counters_.rejected += !ok;
}

void Server::accept_from(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    tune(fd);
    add(fd);
  } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
    // It would be reported again at once: the sockets are left alone until the next housekeeping.
    listens_ = false;
    for (int one : listeners_) epoll_ctl(epoll_, EPOLL_CTL_DEL, one, nullptr);
  }
}

void Server::add(int fd) {
  limit_unproven();
  const uint64_t serial = next_serial_++;
  auto& connection = connections_[serial] = std::make_unique<Connection>(fd, serial, *this);
  epoll_event event{};
  event.events = connection->polled = EPOLLIN;
  event.data.u64 = serial;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) connection->end(strerror(errno));
}

void Server::limit_unproven() {
  size_t unproven = 0;
  Connection* oldest = nullptr;
  for (const auto& [serial, one] : connections_) {
    if (one->trusted() || one->over()) continue;
    ++unproven;
    if (!oldest || one->serial < oldest->serial) oldest = one.get();
  }
  if (unproven >= kMaxUnproven) oldest->end("too many connections have shown no token");
}

void Server::watch(Connection& connection) {
  if (connection.over()) return;
  const uint32_t wanted =
      (connection.wants_input() ? uint32_t{EPOLLIN} : 0) | (connection.wants_output() ? uint32_t{EPOLLOUT} : 0);
  if (wanted == connection.polled) return;
  connection.polled = wanted;
  epoll_event event{};
  event.events = wanted;
  event.data.u64 = connection.serial;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd(), &event);
}

// Serves what the sockets have; returns whether there was anything. It sleeps, without the lock, for `timeout_ms`.
bool Server::poll_once(int timeout_ms, std::unique_lock<std::mutex>& lock) {
  epoll_event events[kEvents];
  lock.unlock();
  const int ready = epoll_wait(epoll_, events, kEvents, timeout_ms);
  lock.lock();
  bool ended = false;
  for (int i = 0; i < ready; ++i) {
    const uint64_t data = events[i].data.u64;
    if (data == kWake) {
      uint64_t count;
      [[maybe_unused]] const ssize_t taken = ::read(wake_, &count, sizeof count);
    } else if (data & kListener) {
      accept_from(static_cast<int>(data & ~kListener));
    } else if (const auto found = connections_.find(data); found != connections_.end()) {
      Connection& connection = *found->second;
      if (events[i].events & EPOLLOUT) connection.send_waiting();
      if (events[i].events & ~uint32_t{EPOLLOUT}) connection.receive();
      if ((events[i].events & (EPOLLHUP | EPOLLERR)) && !connection.wants_input()) connection.end("it closed the connection");
      watch(connection);
      ended |= connection.over();
    }
  }
  if (ended) remove_ended();
  return ready > 0;
}

void Server::remove_ended() {
  std::erase_if(connections_, [&](const auto& entry) {
    const Connection& one = *entry.second;
    if (!one.over()) return false;
    if (!one.trusted()) {
      ++counters_.refused;
    } else if (endings_.size() < kMaxEndings) {
      endings_.push_back(one.why());
    }
    return true;
  });
}

void Server::keep_house() {
  const double now = now_s();
  if (now - house_kept_s_ < kHouseS) return;
  house_kept_s_ = now;
  for (const auto& [serial, one] : connections_) {
    if (!one->trusted() && now - one->since_s > options_.greeting_s) one->end("it has shown no token");
    if (one->stuck_since_s && now - one->stuck_since_s > options_.stuck_s) one->end("it does not take its replies");
  }
  remove_ended();
  if (listens_) return;
  listens_ = true;
  for (int fd : listeners_) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kListener | static_cast<uint64_t>(fd);
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }
}

}  // namespace caracal::wire
