// The expert worker's side of all native sessions: one loop reads calls, merges those of one layer into one launch,
// and answers.
//
// The loop's thread does I/O and launches. While a launch lasts, a second thread serves the sockets in its place, so
// that new calls are read and signs of life given. One mutex guards everything but the launch itself.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "connection.h"
#include "launch.h"
#include "spin.h"

namespace caracal::wire {

struct ServerOptions {
  Expected expected;
  size_t max_sessions = 128;
  uint32_t max_merged_rows = 8192;
  double spin_s = 0;      // how long the loop polls before it sleeps
  double greeting_s = 2;  // how long a connection may take to show its token
  double idle_s = 5;      // after that a session without a call may be ended in favour of a new one
  double stuck_s = 30;    // how long a peer may leave a reply untouched
};

struct ServerCounters {
  uint64_t answered = 0, rejected = 0, late = 0;  // calls: with any reply, with another status than OK, past deadline
  uint64_t opened = 0, refused = 0;               // sessions; connections that ended before they showed a token
};

class Server final : public Host {
 public:
  // `launch` runs on the loop's thread, without any lock of the server's.
  Server(ServerOptions options, LaunchFunction launch);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes over a listening socket, TCP or unix.
  void listen(int fd);
  // Serves a connected socket as if it had been accepted.
  void adopt(int fd);
  // Lets the bearer of a token, and of the keys if there are any (kKeysBytes), open the session of this id within `ttl_s`,
  // once; false when too many are open.
  bool expect(const std::string& token, uint64_t session, double ttl_s, const std::string& keys = {});
  // Rejects calls of lower epochs from now on. A lower one than before is ignored: threads may come out of order.
  void set_epoch(uint64_t epoch);
  // Ends every session; others may be opened.
  void end_sessions(const std::string& why);
  // Ends every session and both threads; called again, it does nothing.
  void stop();

  size_t sessions();
  ServerCounters counters();
  // Why sessions have ended since this was asked last; of many, the first.
  std::vector<std::string> endings();

 private:
  struct Token {
    uint64_t session;
    double until_s;
    std::string keys;
  };

  const Expected& expected() const override { return options_.expected; }
  uint64_t epoch() const override { return epoch_; }
  BufferPool& pool() override { return pool_; }
  Grant redeem(const char* token, const char* tag) override;
  void admit(Job job) override { jobs_.push_back(std::move(job)); }
  void answered(bool ok) override;

  void loop();
  void stand_in();
  bool poll_once(int timeout_ms, std::unique_lock<std::mutex>& lock);
  void wait_for_input(std::unique_lock<std::mutex>& lock);
  void accept_from(int listener);
  void add(int fd);
  void watch(Connection& connection);
  void keep_house();
  void limit_unproven();
  void remove_ended();
  size_t trusted() const;

  void serve(std::unique_lock<std::mutex>& lock);
  void take_jobs();
  void reject_late(std::unique_lock<std::mutex>& lock);
  bool launch(const std::vector<Job*>& jobs, std::unique_lock<std::mutex>& lock);
  void conclude(Job& job, const LaunchResult& result);
  void wake();

  const ServerOptions options_;
  LaunchFunction launch_;
  Merger merger_;
  std::mutex mutex_;
  std::condition_variable standing_in_;
  BufferPool pool_;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::unordered_map<std::string, Token> tokens_;
  std::vector<int> listeners_;
  std::deque<Job> jobs_;
  std::vector<Job> taken_;
  std::vector<Job*> merged_;
  Outgoing rows_;
  ServerCounters counters_;
  std::vector<std::string> endings_;
  std::atomic<uint64_t> epoch_{0};
  uint64_t next_serial_ = 0, launches_ = 0;
  SpinPolicy spin_;
  bool launching_ = false, stand_in_sleeps_ = false, stopping_ = false, listens_ = true;
  double house_kept_s_ = 0;
  int epoll_, wake_;
  std::thread loop_, stand_in_;
};

}  // namespace caracal::wire
