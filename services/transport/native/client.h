// All native sessions of one attention worker: one call scatters a layer's rows, one call waits for all replies.
//
// The engine's thread scatters and waits; any thread adds and ends sessions. One mutex guards everything; nobody holds
// it while asleep. A thread beside them sends on what a socket did not take at once, while the engine computes; while
// the engine waits, it sleeps.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scatterer.h"
#include "session.h"
#include "spin.h"

namespace caracal::wire {

// What one scatter sent, until its replies have come. Recycled by the client.
struct Exchange {
  std::vector<Call> calls;  // never grows while any is pending: sessions point to them
  size_t used = 0;          // calls of this scatter
  size_t pending = 0;
  double arrived_s = 0;  // when the last call was concluded

  bool all_well() const {
    for (size_t i = 0; i < used; ++i) {
      if (calls[i].outcome != Outcome::kAnswered || !calls[i].finite) return false;
    }
    return true;
  }
  // When the first of the pending calls is overdue, or was.
  double overdue_s() const;
};

struct ClientOptions {
  double heartbeat_s = 0.05;  // between two pings while a wait lasts
  int silent_beats = 10;      // pings in a row without any answer, before a peer counts as gone, unless others are set
  double spin_s = 0;          // how long a wait polls before it sleeps
  uint32_t reply_dtype = 0;
};

class Client final : public Scatterer {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Takes over a connected socket whose session the worker has welcomed, with the keys of its Open rpc, if it gave any;
  // returns the session's serial, from 0 on.
  int64_t add(int fd, uint64_t session, const std::string& keys = {});
  // Ends a session: its calls fail at once.
  void end(int64_t serial, const char* why);
  // Why a session has ended; empty while it serves.
  std::string why_over(int64_t serial);
  // Changes the generation.
  void touch();
  size_t sessions();

  uint64_t generation() override;
  Exchange* scatter(const Scatter& scatter) override;
  Waited wait(Exchange& exchange, double timeout_s, bool leaves_overdue) override;
  void release(Exchange* exchange) override;

  // Waits until one more call of these exchanges is concluded, or until `timeout_s` is over; gives nothing up.
  void wait_for_one(std::span<Exchange* const> exchanges, double timeout_s);
  // The workers of the calls that are pending, and when each is overdue.
  std::vector<std::pair<uint32_t, double>> pending(const Exchange& exchange);
  // Gives up the call to one worker, if it is pending.
  void give_up(Exchange& exchange, uint32_t worker);

  // Calls of a session are overdue after so long, by their size, and its peer counts as gone after so many pings.
  void set_limits(int64_t serial, const std::array<double, kSizes>& overdue_after_s, int silent_beats);
  // The latencies since this was asked last.
  std::vector<Latency> take_latencies();
  // How many calls of a session have brought their rows; 0 when it is over.
  uint64_t answered(int64_t serial);

 private:
  bool send(Call& call);
  void fill(Call& call, const Scatter& scatter, const int32_t* row, const int32_t* row_of, const int32_t* expert);
  template <class Done>
  void serve(std::unique_lock<std::mutex>& lock, std::span<Exchange* const> exchanges, double until_s, const Done& done);
  void give_up(Call& call, const char* why);
  void give_up(Exchange& exchange);
  double asks_s(const Call& call) const;
  double beat(std::span<Exchange* const> exchanges, double now);
  bool pump(int timeout_ms, std::unique_lock<std::mutex>& lock);
  void watch_output(Session& session);
  void forget_ended();
  void flush_loop();
  void wake();

  const ClientOptions options_;
  std::mutex mutex_;
  std::condition_variable flush_;
  std::unordered_map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::unordered_map<uint64_t, std::string> ended_;  // why sessions ended that nobody has asked about
  std::vector<Latency> latencies_;
  std::vector<std::unique_ptr<Exchange>> exchanges_;
  std::vector<Exchange*> free_;
  uint64_t next_serial_ = 0, generation_ = 0;
  SpinPolicy spin_;
  bool waiting_ = false, stopping_ = false, any_ended_ = false;
  int epoll_, wake_;
  std::thread flusher_;
};

}  // namespace caracal::wire
