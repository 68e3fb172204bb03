#include "outgoing.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "crc32c.h"

namespace caracal::wire {
namespace {

constexpr size_t kMaxPieces = 1024;  // of one system call: IOV_MAX

}  // namespace

void Outgoing::clear() {
  pieces_.clear();
  at_ = left_ = sent_ = 0;
}

void Outgoing::add(const void* at, size_t bytes) {
  if (!bytes) return;
  left_ += bytes;
  char* begin = static_cast<char*>(const_cast<void*>(at));
  if (!pieces_.empty()) {
    iovec& last = pieces_.back();
    if (static_cast<char*>(last.iov_base) + last.iov_len == begin) {
      last.iov_len += bytes;
      return;
    }
  }
  pieces_.push_back({begin, bytes});
}

void Outgoing::add(const Outgoing& other) {
  pieces_.insert(pieces_.end(), other.pieces_.begin(), other.pieces_.end());
  left_ += other.left_;
}

bool Outgoing::send_some(int fd) {
  while (left_) {
    msghdr message{};
    message.msg_iov = pieces_.data() + at_;
    message.msg_iovlen = std::min(kMaxPieces, pieces_.size() - at_);
    const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    consume(static_cast<size_t>(sent));
  }
  return true;
}

void Outgoing::consume(size_t bytes) {
  left_ -= bytes;
  sent_ += bytes;
  while (bytes) {
    iovec& piece = pieces_[at_];
    const size_t taken = std::min(bytes, piece.iov_len);
    piece.iov_base = static_cast<char*>(piece.iov_base) + taken;
    piece.iov_len -= taken;
    bytes -= taken;
    at_ += piece.iov_len == 0;
  }
}

uint32_t Outgoing::crc32c_from(size_t first) const {
  uint32_t crc = 0;
  for (size_t i = first; i < pieces_.size(); ++i) crc = crc32c(crc, pieces_[i].iov_base, pieces_[i].iov_len);
  return crc;
}

void Outgoing::copy_rest(std::vector<char>& copy) const {
  for (size_t i = at_; i < pieces_.size(); ++i) {
    const char* begin = static_cast<const char*>(pieces_[i].iov_base);
    copy.insert(copy.end(), begin, begin + pieces_[i].iov_len);
  }
}

}  // namespace caracal::wire
