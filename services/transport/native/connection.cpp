#include "connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace caracal::wire {

size_t Expected::row_bytes() const {
  size_t bytes = 0;
  for (size_t plane : planes) bytes += plane;
  return bytes;
}

Connection::Connection(int fd, uint64_t serial_, Host& host)
    : serial(serial_), since_s(now_s()), fd_(fd), host_(host) {}

Connection::~Connection() { end("the worker closed the session"); }

void Connection::end(const char* why) {
  if (over()) return;
  why_ = why;
  close(fd_);
  fd_ = -1;
  unsent_.clear();
  host_.pool().give(std::move(body_));
  body_ = Buffer();
}

void Connection::receive() {
  if (over() || !wants_input()) return;
  if (reader_.read(fd_, *this) != Read::kEnded) return;
  if (reader_.damaged() && trusted()) {  // which call it was is not known: the caller makes all of them again
    Header header;
    header.kind = Kind::kReply;
    header.status = Status::kDamaged;
    send(header, nullptr, 0);
  }
  end(reader_.why());
}

Region Connection::guess() {
  if (!trusted()) return {};  // a stranger's frame is read header first
  if (!body_.at()) body_ = host_.pool().take(kGuessBytes);
  return {body_.at(), std::min(body_.bytes(), kGuessBytes)};
}

bool Connection::begin(const Header& header, char*& at, const char*& why) {
  if (!trusted()) {
    why = "the first frame is not a greeting";
    if (header.kind != Kind::kHello || (header.body_bytes != kTokenBytes && header.body_bytes != sizeof token_)) return false;
    at = token_;
    return true;
  }
  if (header.session != session_) return why = "a frame of another session came", false;
  if (header.kind == Kind::kPing) return why = "a ping has a body", header.body_bytes == 0;
  if (header.kind != Kind::kCall) return why = "a frame of a kind that workers do not receive came", false;
  return begin_call(header, at, why);
}

bool Connection::begin_call(const Header& header, char*& at, const char*& why) {
  const Expected& expected = host_.expected();
  if (header.rows > expected.max_rows || header.assignments > expected.max_assignments ||
      header.body_bytes > expected.max_body_bytes() ||
      header.body_bytes < 2 * sizeof(int32_t) * uint64_t{header.assignments}) {
    return why = "a call is longer than this worker's limit, or too short for its assignments", false;
  }
  if (!body_.at() || body_.bytes() < header.body_bytes) {
    Buffer larger = host_.pool().take(header.body_bytes);
    host_.pool().give(std::move(body_));
    body_ = std::move(larger);
  }
  at = body_.at();
  return true;
}

bool Connection::complete(const Header& header, const char*& why) {
  if (header.kind == Kind::kHello) return welcome(why);
  if (header.kind == Kind::kCall) return complete_call(header, why);
  Header pong;
  pong.kind = Kind::kPong;
  send(pong, nullptr, 0);
  return why = "the socket failed", !over();
}

bool Connection::welcome(const char*& why) {
  why = "the token is not valid";
  if (reader_.header().body_crc != crc32c(0, token_, kTokenBytes)) return false;
  Grant grant = host_.redeem(token_, reader_.header().body_bytes == sizeof token_ ? token_ + kTokenBytes : nullptr);
  std::memset(token_, 0, sizeof token_);
  session_ = grant.session;
  if (!session_) return false;
  reader_.decrypt_with(std::move(grant.incoming));
  sender_.encrypt_with(std::move(grant.outgoing));
  Header hello;
  hello.kind = Kind::kWelcome;
  hello.epoch = host_.epoch();
  send(hello, nullptr, 0);
  return why = "the socket failed", !over();
}

bool Connection::complete_call(const Header& header, const char*& why) {
  ++calls_;
  Job job;
  job.serial = serial;
  job.header = header;
  job.body = std::move(body_);
  body_ = Buffer();
  job.arrived_s = now_s();
  job.deadline_s = header.deadline_ms ? job.arrived_s + header.deadline_ms / 1000.0 : 1e300;
  const uint64_t epoch = host_.epoch();
  std::string wrong;
  Status status = Status::kInvalid;
  if (header.epoch < epoch) {
    status = Status::kStaleEpoch;
    wrong = "epoch " + std::to_string(header.epoch) + " is below " + std::to_string(epoch);
  } else if (crc32c(0, job.body.at(), header.body_bytes) != header.body_crc) {
    status = Status::kDamaged;
    wrong = "the checksum of x is wrong: the rows were damaged on their way";
  } else {
    wrong = violation(job, host_.expected());
  }
  if (wrong.empty()) {
    ++queued;
    host_.admit(std::move(job));
    return true;
  }
  host_.pool().give(std::move(job.body));
  reject(header, status, wrong);
  return why = "the socket failed", !over();
}

void Connection::reply(const Header& call, Outgoing& rows) {
  host_.answered(true);
  if (over()) return;
  Header header;
  header.kind = Kind::kReply;
  header.session = session_;
  header.call = call.call;
  header.step = call.step;
  header.layer = call.layer;
  header.epoch = host_.epoch();
  header.rows = header.assignments = call.assignments;
  header.hidden = call.hidden;
  header.dtype = host_.expected().reply_dtype;
  header.body_bytes = rows.left();
  header.body_crc = rows.crc32c_from(0);
  seal(header);
  out_.clear();
  out_.add(&header, sizeof header);
  out_.add(rows);
  send(out_);
}

void Connection::reject(const Header& call, Status status, const std::string& message) {
  host_.answered(false);
  if (over()) return;
  Header header;
  header.kind = Kind::kReply;
  header.call = call.call;
  header.step = call.step;
  header.layer = call.layer;
  header.epoch = host_.epoch();
  header.status = status;
  send(header, message.data(), std::min(message.size(), kMaxMessageBytes));
}

void Connection::send(Header& header, const char* body, size_t bytes) {
  header.session = session_;
  header.body_bytes = bytes;
  header.body_crc = crc32c(0, body, bytes);
  seal(header);
  out_.clear();
  out_.add(&header, sizeof header);
  out_.add(body, bytes);
  send(out_);
}

void Connection::send(Outgoing& out) {
  if (unsent_.empty() && !sender_.send_some(fd_, out)) return end(strerror(errno));
  if (!sender_.unsent(out)) return;
  if (unsent_.empty()) {
    unsent_at_ = 0;
    stuck_since_s = now_s();
  }
  if (!sender_.copy_rest(out, unsent_)) end(strerror(errno));
}

void Connection::send_waiting() {
  while (!over() && !unsent_.empty()) {
    const ssize_t sent = ::send(fd_, unsent_.data() + unsent_at_, unsent_.size() - unsent_at_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return;
      return end(strerror(errno));
    }
    unsent_at_ += static_cast<size_t>(sent);
    stuck_since_s = now_s();
    if (unsent_at_ < unsent_.size()) continue;
    unsent_.clear();
    stuck_since_s = 0;
  }
}

}  // namespace caracal::wire
