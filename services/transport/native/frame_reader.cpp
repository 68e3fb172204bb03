#include "frame_reader.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace caracal::wire {
namespace {

constexpr size_t kScratch = 64 << 10;
thread_local char scratch[kScratch];

}  // namespace

Read FrameReader::ended(long received) {
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return Read::kNothing;
  why_ = received == 0 ? "it closed the connection" : strerror(errno);
  return Read::kEnded;
}

Read FrameReader::read(int fd, FrameOwner& owner) { return in_body() ? read_body(fd, owner) : read_header(fd, owner); }

Read FrameReader::read_header(int fd, FrameOwner& owner) {
  const Region guess = owner.guess();
  const size_t wanted = sizeof(Header) - header_have_;
  iovec parts[2] = {{reinterpret_cast<char*>(&header_) + header_have_, wanted}, {guess.at, guess.bytes}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = guess.bytes ? 2 : 1;
  const ssize_t received = recvmsg(fd, &message, 0);
  if (received <= 0) return ended(received);
  const size_t got = static_cast<size_t>(received);
  header_have_ += std::min(got, wanted);
  const size_t extra = got - std::min(got, wanted);
  if (!in_body()) return Read::kSome;
  if (!begin(owner)) return Read::kEnded;
  if (extra && at_ == guess.at && extra <= header_.body_bytes) {
    body_have_ = extra;
  } else if (extra) {
    spill_.assign(guess.at, guess.at + extra);  // the next `begin` may give the guess's memory away
    return feed(spill_.data(), extra, owner) ? Read::kSome : Read::kEnded;
  }
  return finish_if_whole(owner) ? Read::kSome : Read::kEnded;
}

Read FrameReader::read_body(int fd, FrameOwner& owner) {
  const size_t left = header_.body_bytes - body_have_;
  char* into = at_ ? at_ + body_have_ : scratch;
  const ssize_t received = recv(fd, into, at_ ? left : std::min(left, kScratch), 0);
  if (received <= 0) return ended(received);
  body_have_ += static_cast<size_t>(received);
  return finish_if_whole(owner) ? Read::kSome : Read::kEnded;
}

bool FrameReader::feed(const char* data, size_t bytes, FrameOwner& owner) {
  for (;;) {
    if (!in_body()) {
      const size_t taken = std::min(bytes, sizeof(Header) - header_have_);
      std::memcpy(reinterpret_cast<char*>(&header_) + header_have_, data, taken);
      header_have_ += taken;
      data += taken;
      bytes -= taken;
      if (!in_body()) return true;
      if (!begin(owner)) return false;
    }
    const size_t taken = std::min<uint64_t>(bytes, header_.body_bytes - body_have_);
    if (at_) std::memcpy(at_ + body_have_, data, taken);
    body_have_ += taken;
    data += taken;
    bytes -= taken;
    if (!finish_if_whole(owner)) return false;
    if (!bytes) return true;
  }
}

bool FrameReader::begin(FrameOwner& owner) {
  body_have_ = 0;
  at_ = nullptr;
  why_ = fault_of(header_);
  return !why_ && owner.begin(header_, at_, why_);
}

bool FrameReader::finish_if_whole(FrameOwner& owner) {
  if (body_have_ < header_.body_bytes) return true;
  header_have_ = 0;  // before `complete`, which may discard the rest of what it thinks is in progress
  return owner.complete(header_, why_);
}

}  // namespace caracal::wire
