// The caller's side of one session with one expert worker: what is on its way out, and which replies are awaited.
// All of it is used under the lock of the Client that owns it.
#pragma once
#include <array>
#include <deque>
#include <string>
#include <vector>

#include "finite.h"
#include "frame.h"
#include "frame_reader.h"
#include "sender.h"

namespace caracal::wire {

// kLost: the session ended first. kInvalid: the reply cannot be used. kLate: given up. kDamaged: the reply, or a frame that
// ended the session, is not what was sent.
enum class Outcome : uint8_t { kPending, kAnswered, kRejected, kLost, kInvalid, kLate, kDamaged };

struct Exchange;

// One message to one worker and what becomes of it. It lives in its Exchange.
struct Call {
  Exchange* exchange = nullptr;
  uint32_t worker = 0;  // index among the workers that the scatter was given
  uint64_t serial = 0;  // of its session
  Header header;        // as sent
  Outgoing out;
  char* reply = nullptr;  // where the rows of the reply go
  size_t reply_bytes = 0;
  double sent_s = 0, overdue_s = 0;  // when it was sent, and from when on its session's reply is later than nearly all
  Outcome outcome = Outcome::kPending;
  Status status = Status::kOk;
  uint64_t epoch = 0;  // the worker's, of a reply
  bool finite = true;
  std::string message;
};

// How long a session took for a call.
struct Latency {
  uint64_t serial;
  uint32_t assignments;
  double seconds;
};

// Sizes of calls by powers of two: size n has at most 2^n - 1 assignments, the last one all that are larger.
constexpr size_t kSizes = 20;

class Session final : public FrameOwner {
 public:
  // `keys`: the session's, from the Open rpc; none, and its frames are not encrypted. `latencies` gets those of its calls.
  Session(int fd, uint64_t id, uint64_t serial, uint32_t reply_dtype, std::vector<Latency>& latencies,
          const std::string& keys = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Queues a call, whose header gets its number here, and sends what the socket takes.
  void send(Call& call);
  // Sends what waits to be sent; ends the session when the socket has failed.
  void send_waiting();
  // Takes in what has arrived; returns whether anything had.
  bool receive();
  // Asks for a sign of life; ends the session when `most_beats` such questions in a row have brought nothing. A peer whose
  // socket still takes what is being sent is not asked meanwhile.
  void ask(double now);
  // Gives up a call: its rows and its reply's memory are not touched any more. This may end the session.
  void forget(Call& call);
  // Fails all calls that wait for a reply, and closes the socket. The first reason stays.
  void end(const char* why, Outcome outcome = Outcome::kLost);

  bool over() const { return fd_ < 0; }
  bool unsent() const { return !over() && !sending_.empty(); }

  int fd() const { return fd_; }
  const uint64_t serial;
  const std::string& why() const { return why_; }
  double asked_s = 0;  // when it was asked for a sign of life last
  int most_beats = 10;
  uint64_t answered = 0;  // calls whose rows have come
  std::array<double, kSizes> overdue_after_s;  // by a call's size; at first never
  bool polls_output = false;

 private:
  bool begin(const Header& header, char*& at, const char*& why) override;
  bool complete(const Header& header, const char*& why) override;
  Region guess() override;
  void ping();
  bool refuse(Call& call, std::string what, const char*& why);
  Call* find(uint64_t number) const;
  void conclude(Call& call, Outcome outcome);

  int fd_;
  const uint64_t id_;
  const uint32_t reply_dtype_;
  std::vector<Latency>& latencies_;
  uint64_t last_call_ = 0;
  int beats_ = 0;       // questions for a sign of life since anything was received, in whichever waits
  bool sends_ = false;  // whether the socket has taken anything since the last of them
  std::deque<Call*> sending_;       // in order; the first may be half sent. A nullptr is the ping.
  std::vector<Call*> awaited_;      // in the order they were sent
  FrameReader reader_;
  Sender sender_;
  Header ping_header_;
  Outgoing ping_;
  char message_[kMaxMessageBytes];
  std::string why_;
};

}  // namespace caracal::wire
