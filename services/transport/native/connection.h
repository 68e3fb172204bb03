// The worker's side of one session: frames in, replies out. Used under the lock of the Server that owns it.
//
// Legend: R rows of a call, A its (row, expert) assignments.
#pragma once
#include <string>
#include <vector>

#include "buffers.h"
#include "finite.h"
#include "frame.h"
#include "frame_reader.h"
#include "sender.h"

namespace caracal::wire {

// What calls must fit: the model's sizes and the form in which rows are sent. Two planes are fp8's values and scales.
struct Expected {
  uint32_t layers = 0, experts = 0, hidden = 0;
  uint32_t dispatch_dtype = 0, reply_dtype = 0;
  std::string dispatch_dtype_name;
  std::vector<size_t> planes;  // bytes of a row in each
  uint32_t max_rows = 0, max_assignments = 0;

  size_t row_bytes() const;
  size_t reply_row_bytes() const { return hidden * bytes_of(reply_dtype); }
  size_t max_body_bytes() const { return 2 * sizeof(int32_t) * max_assignments + max_rows * row_bytes(); }
};

// A call that waits for its launch.
struct Job {
  uint64_t serial = 0;  // of the connection
  Header header;
  Buffer body;
  double arrived_s = 0, deadline_s = 0;

  const int32_t* row_of() const { return reinterpret_cast<const int32_t*>(body.at()); }
  const int32_t* expert() const { return row_of() + header.assignments; }
  const char* payload() const { return reinterpret_cast<const char*>(expert() + header.assignments); }
};

class Connection;

// What a one-time token allows. Without ciphers the session is not encrypted; session 0: nothing.
struct Grant {
  uint64_t session = 0;
  std::unique_ptr<Cipher> incoming, outgoing;
};

// The Server, as its connections see it.
class Host {
 public:
  virtual const Expected& expected() const = 0;
  virtual uint64_t epoch() const = 0;
  virtual BufferPool& pool() = 0;
  // The grant of a one-time token, which is used up if it has one. `tag` is the caller's proof of the session's keys,
  // nullptr if it has sent none.
  virtual Grant redeem(const char* token, const char* tag) = 0;
  virtual void admit(Job job) = 0;
  virtual void answered(bool ok) = 0;

 protected:
  ~Host() = default;
};

class Connection final : public FrameOwner {
 public:
  Connection(int fd, uint64_t serial, Host& host);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void receive();
  // Sends rows that lie in `out`; what the socket does not take at once is copied and sent later.
  void reply(const Header& call, Outgoing& rows);
  void reject(const Header& call, Status status, const std::string& message);
  void send_waiting();
  void end(const char* why);

  bool over() const { return fd_ < 0; }
  bool trusted() const { return session_ != 0; }
  bool has_called() const { return calls_ > 0; }
  // A peer that does not take its replies, or has many calls waiting, is not read from.
  bool wants_input() const { return unsent_.empty() && queued < kMaxQueued; }
  bool wants_output() const { return !unsent_.empty(); }
  int fd() const { return fd_; }
  const std::string& why() const { return why_; }

  const uint64_t serial;
  const double since_s;
  double stuck_since_s = 0;  // since when no byte of a reply was taken; 0 = nothing waits
  unsigned queued = 0;       // jobs of this connection that wait for a launch
  uint32_t polled = 0;       // epoll's events at present

 private:
  static constexpr unsigned kMaxQueued = 8;
  static constexpr size_t kGuessBytes = 64 << 10;

  bool begin(const Header& header, char*& at, const char*& why) override;
  bool complete(const Header& header, const char*& why) override;
  Region guess() override;
  bool begin_call(const Header& header, char*& at, const char*& why);
  bool complete_call(const Header& header, const char*& why);
  bool welcome(const char*& why);
  void send(Header& header, const char* body, size_t bytes);
  void send(Outgoing& out);

  int fd_;
  Host& host_;
  uint64_t session_ = 0;
  size_t calls_ = 0;
  FrameReader reader_;
  Sender sender_;
  Buffer body_;    // of the frame that is being received
  Outgoing out_;
  std::vector<char> unsent_;
  size_t unsent_at_ = 0;
  char token_[kTokenBytes + kTagBytes];
  std::string why_;
};

// What is wrong with a whole call, in the words of call_check.py; empty when nothing is.
std::string violation(const Job& job, const Expected& expected);

}  // namespace caracal::wire
