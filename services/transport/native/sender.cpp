#include "sender.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "frame.h"

namespace caracal::wire {

void Sender::encrypt_with(std::unique_ptr<Cipher> cipher) {
  cipher_ = std::move(cipher);
  chunk_ = cipher_ ? std::make_unique<char[]>(kChunk + 2 * kTagBytes) : nullptr;
}

bool Sender::send_some(int fd, Outgoing& frame) {
  if (!cipher_) return frame.send_some(fd);
  while (unsent(frame)) {
    if (at_ == end_ && !fill(frame)) return false;
    const ssize_t sent = send(fd, chunk_.get() + at_, end_ - at_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    at_ += static_cast<size_t>(sent);
  }
  return true;
}

bool Sender::copy_rest(Outgoing& frame, std::vector<char>& copy) {
  if (!cipher_) return frame.copy_rest(copy), true;
  while (unsent(frame)) {
    if (at_ == end_ && !fill(frame)) return false;
    copy.insert(copy.end(), chunk_.get() + at_, chunk_.get() + end_);
    at_ = end_;
  }
  return true;
}

bool Sender::fill(Outgoing& frame) {
  at_ = end_ = 0;
  if (!frame.begun()) {
    taken_ = 0;
    cipher_->begin();
  }
  while (frame.left() && end_ < kChunk) {
    const iovec piece = frame.front();
    const size_t until = taken_ < sizeof(Header) ? sizeof(Header) - taken_ : kChunk;  // a header is a message of its own
    const size_t bytes = std::min({piece.iov_len, until, kChunk - end_});
    cipher_->update(piece.iov_base, chunk_.get() + end_, bytes);
    end_ += bytes;
    taken_ += bytes;
    frame.consume(bytes);
    if (taken_ != sizeof(Header) && frame.left()) continue;
    cipher_->finish(chunk_.get() + end_);
    end_ += kTagBytes;
    if (frame.left()) cipher_->begin();
  }
  if (cipher_->failed()) errno = EIO;
  return !cipher_->failed();
}

}  // namespace caracal::wire
