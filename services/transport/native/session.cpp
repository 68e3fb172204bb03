#include "session.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <utility>

#include "client.h"
#include "greeting.h"

namespace caracal::wire {
namespace {

constexpr size_t kMostLatencies = 1024;  // between two times that they are asked for: a sample is enough

size_t size_of(uint32_t assignments) { return std::min<size_t>(std::bit_width(assignments), kSizes - 1); }

}  // namespace

Session::Session(int fd, uint64_t id, uint64_t serial_, uint32_t reply_dtype, std::vector<Latency>& latencies,
                 const std::string& keys)
    : serial(serial_), fd_(fd), id_(id), reply_dtype_(reply_dtype), latencies_(latencies) {
  overdue_after_s.fill(std::numeric_limits<double>::infinity());
  sender_.encrypt_with(callers_cipher(keys, Way::kEncrypt, kAfterGreeting));
  reader_.decrypt_with(workers_cipher(keys, Way::kDecrypt, kAfterGreeting));
  ping_header_.kind = Kind::kPing;
  ping_header_.session = id;
  seal(ping_header_);
}

Session::~Session() { end("the session was closed"); }

void Session::send(Call& call) {
  Header& header = call.header;
  header.session = id_;
  header.call = ++last_call_;
  seal(header);
  call.sent_s = now_s();
  call.overdue_s = call.sent_s + overdue_after_s[size_of(header.assignments)];
  if (over()) {
    call.message = why_;
    return conclude(call, Outcome::kLost);
  }
  awaited_.push_back(&call);
  sending_.push_back(&call);
  if (sending_.size() == 1) send_waiting();
}

void Session::send_waiting() {
  while (!over() && !sending_.empty()) {
    Outgoing& out = sending_.front() ? sending_.front()->out : ping_;
    const size_t left = out.left();
    if (!sender_.send_some(fd_, out)) return end(strerror(errno));
    sends_ |= out.left() < left;
    if (sender_.unsent(out)) return;
    sending_.pop_front();
  }
}

bool Session::receive() {
  if (over()) return false;
  const Read read = reader_.read(fd_, *this);
  if (read == Read::kSome) beats_ = 0;
  if (read == Read::kEnded) end(reader_.why(), reader_.damaged() ? Outcome::kDamaged : Outcome::kLost);
  return read != Read::kNothing;
}

void Session::ask(double now) {
  if (over()) return;
  asked_s = now;
  if (!sending_.empty() && std::exchange(sends_, false)) return;
  if (beats_++ >= most_beats) return end("it has given no sign of life");
  ping();
}

void Session::ping() {
  if (!sending_.empty()) return;
  ping_.clear();
  ping_.add(&ping_header_, sizeof ping_header_);
  sending_.push_back(nullptr);
  send_waiting();
}

void Session::forget(Call& call) {
  const auto waiting = std::find(awaited_.begin(), awaited_.end(), &call);
  if (waiting == awaited_.end()) return;
  awaited_.erase(waiting);
  // The reply's memory is about to be given back: the rest of it, and a late reply, are received and dropped.
  if (reader_.in_body() && reader_.header().call == call.header.call) reader_.discard_rest();
  const auto unsent = std::find(sending_.begin(), sending_.end(), &call);
  if (unsent == sending_.end()) return;
  if (call.out.begun()) return end("a call was given up while it was being sent");
  sending_.erase(unsent);
}

void Session::end(const char* why, Outcome outcome) {
  if (over()) return;
  why_ = why;
  close(fd_);
  fd_ = -1;
  sending_.clear();
  for (Call* call : awaited_) {
    call->message = why_;
    conclude(*call, outcome);
  }
  awaited_.clear();
}

void Session::conclude(Call& call, Outcome outcome) {
  call.outcome = outcome;
  --call.exchange->pending;
  const double arrived_s = call.exchange->arrived_s = now_s();
  if (outcome != Outcome::kAnswered) return;
  ++answered;
  if (latencies_.size() < kMostLatencies) latencies_.push_back({serial, call.header.assignments, arrived_s - call.sent_s});
}

Call* Session::find(uint64_t number) const {
  const auto found =
      std::find_if(awaited_.begin(), awaited_.end(), [&](const Call* call) { return call->header.call == number; });
  return found == awaited_.end() ? nullptr : *found;
}

Region Session::guess() {
  if (awaited_.empty()) return {};
  return {awaited_.front()->reply, awaited_.front()->reply_bytes};
}

bool Session::refuse(Call& call, std::string what, const char*& why) {
  awaited_.erase(std::find(awaited_.begin(), awaited_.end(), &call));
  call.message = std::move(what);
  conclude(call, Outcome::kInvalid);
  why = "its reply could not be used";
  return false;
}

bool Session::begin(const Header& header, char*& at, const char*& why) {
  if (header.session != id_) return why = "a frame of another session came", false;
  if (header.kind == Kind::kPong) return why = "a sign of life has a body", header.body_bytes == 0;
  if (header.kind != Kind::kReply) return why = "a frame of a kind that callers do not receive came", false;
  if (!header.call && header.status == Status::kDamaged) {
    why = "a frame was damaged on its way there";
    return end(why, Outcome::kDamaged), false;
  }
  if (!header.call || header.call > last_call_) return why = "a reply to a call that was not made came", false;
  Call* call = find(header.call);
  if (header.status != Status::kOk) {
    if (header.body_bytes > kMaxMessageBytes) return why = "a rejection is too long", false;
    at = call ? message_ : nullptr;
    return true;
  }
  if (!call) return why = "a reply is too long", header.body_bytes <= kMaxBodyBytes;
  const Header& asked = call->header;
  if (header.assignments != asked.assignments || header.hidden != asked.hidden || header.dtype != reply_dtype_ ||
      header.body_bytes != call->reply_bytes) {
    return refuse(*call, "answered [" + std::to_string(header.assignments) + ", " + std::to_string(header.hidden) +
                             "] in " + std::to_string(header.body_bytes) + " bytes, asked for [" +
                             std::to_string(asked.assignments) + ", " + std::to_string(asked.hidden) + "]", why);
  }
  at = call->reply;
  return true;
}

bool Session::complete(const Header& header, const char*& why) {
  if (header.kind == Kind::kPong) return true;
  Call* call = find(header.call);
  if (!call) return true;  // given up meanwhile
  const bool ok = header.status == Status::kOk;
  const char* body = ok ? call->reply : message_;
  if (std::find(sending_.begin(), sending_.end(), call) != sending_.end()) {
    return refuse(*call, "a reply came before its call was sent", why);
  }
  if (crc32c(0, body, header.body_bytes) != header.body_crc) {  // of this call alone: the next frame begins where it ends
    awaited_.erase(std::find(awaited_.begin(), awaited_.end(), call));
    call->message = "the reply fails its checksum";
    conclude(*call, Outcome::kDamaged);
    return true;
  }
  call->status = header.status;
  call->epoch = header.epoch;
  if (ok) {
    call->finite = all_finite(body, header.body_bytes, header.dtype);
  } else {
    call->message.assign(body, header.body_bytes);
  }
  awaited_.erase(std::find(awaited_.begin(), awaited_.end(), call));
  conclude(*call, ok ? Outcome::kAnswered : Outcome::kRejected);
  return true;
}

}  // namespace caracal::wire
