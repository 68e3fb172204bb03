#include "frame_reader.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace caracal::wire {
namespace {

constexpr size_t kScratch = 64 << 10;
constexpr char kForged[] = "a frame fails its authentication";
thread_local char scratch[kScratch];

}  // namespace

void FrameReader::decrypt_with(std::unique_ptr<Cipher> cipher) {
  cipher_ = std::move(cipher);
  tag_bytes_ = cipher_ ? kTagBytes : 0;
}

Read FrameReader::ended(long received) {
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return Read::kNothing;
  why_ = received == 0 ? "it closed the connection" : strerror(errno);
  return Read::kEnded;
}

Read FrameReader::read(int fd, FrameOwner& owner) { return in_body() ? read_body(fd, owner) : read_header(fd, owner); }

Read FrameReader::read_header(int fd, FrameOwner& owner) {
  const Region guess = owner.guess();
  const size_t wanted = header_bytes() - header_have_;
  iovec parts[3] = {{reinterpret_cast<char*>(&head_) + header_have_, wanted}, {guess.at, guess.bytes}, {late_, tag_bytes_}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = guess.bytes ? 3 : 1;
  const ssize_t received = recvmsg(fd, &message, 0);
  if (received <= 0) return ended(received);
  const size_t got = static_cast<size_t>(received);
  header_have_ += std::min(got, wanted);
  const size_t extra = got - std::min(got, wanted), guessed = std::min(extra, guess.bytes);
  if (!in_body()) return Read::kSome;
  if (!begin(owner)) return Read::kEnded;
  if (extra && at_ == guess.at && extra <= body_bytes()) {
    take_guessed(guessed, extra - guessed);
  } else if (extra) {
    spill_.assign(guess.at, guess.at + guessed);  // the next `begin` may give the guess's memory away
    spill_.insert(spill_.end(), late_, late_ + (extra - guessed));
    return feed(spill_.data(), extra, owner) ? Read::kSome : Read::kEnded;
  }
  return finish_if_whole(owner) ? Read::kSome : Read::kEnded;
}

Read FrameReader::read_body(int fd, FrameOwner& owner) {
  const size_t left = of_body(body_bytes() - body_have_), tag_have = body_have_ - std::min<uint64_t>(body_have_, header().body_bytes);
  const size_t at_once = at_ ? left : std::min(left, kScratch);
  iovec parts[2] = {{at_ ? at_ + body_have_ : scratch, at_once}, {tag_ + tag_have, tag_bytes_ - tag_have}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = at_once == left ? 2 : 1;
  const ssize_t received = recvmsg(fd, &message, 0);
  if (received <= 0) return ended(received);
  if (cipher_) cipher_->update(parts[0].iov_base, parts[0].iov_base, std::min(static_cast<size_t>(received), at_once));
  body_have_ += static_cast<size_t>(received);
  return finish_if_whole(owner) ? Read::kSome : Read::kEnded;
}

bool FrameReader::feed(const char* data, size_t bytes, FrameOwner& owner) {
  for (;;) {
    if (!in_body()) {
      const size_t taken = std::min(bytes, header_bytes() - header_have_);
      std::memcpy(reinterpret_cast<char*>(&head_) + header_have_, data, taken);
      header_have_ += taken;
      data += taken;
      bytes -= taken;
      if (!in_body()) return true;
      if (!begin(owner)) return false;
    }
    const size_t taken = std::min(bytes, body_bytes() - body_have_);
    take(data, taken);
    data += taken;
    bytes -= taken;
    if (!finish_if_whole(owner)) return false;
    if (!bytes) return true;
  }
}

size_t FrameReader::of_body(size_t bytes) const {
  const uint64_t body = header().body_bytes;
  return body_have_ < body ? std::min<uint64_t>(bytes, body - body_have_) : 0;
}

// The first bytes after the header were received where the body goes, and `late` more of them behind that.
void FrameReader::take_guessed(size_t guessed, size_t late) {
  const size_t body = of_body(guessed);
  if (cipher_) cipher_->update(at_, at_, body);
  std::memcpy(tag_, at_ + body, guessed - body);
  body_have_ = guessed;
  take(late_, late);
}

void FrameReader::take(const char* data, size_t bytes) {
  const size_t body = of_body(bytes);
  for (size_t done = 0; done < body;) {
    const size_t piece = at_ ? body : std::min(body - done, kScratch);
    char* into = at_ ? at_ + body_have_ : scratch;
    if (cipher_) {
      cipher_->update(data + done, into, piece);
    } else if (at_) {
      std::memcpy(into, data, piece);
    }
    done += piece;
  }
  body_have_ += body;
  if (bytes > body) std::memcpy(tag_ + (body_have_ - header().body_bytes), data + body, bytes - body);
  body_have_ += bytes - body;
}

bool FrameReader::begin(FrameOwner& owner) {
  Header& header = head_.header;
  body_have_ = 0;
  at_ = nullptr;
  if (cipher_) {
    cipher_->begin();
    cipher_->update(&header, &header, sizeof header);
    if (!cipher_->verify(head_.tag)) return damaged_ = true, why_ = kForged, false;
  }
  why_ = fault_of(header);
  damaged_ = why_ != nullptr;
  if (why_ || !owner.begin(header, at_, why_)) return false;
  if (cipher_ && header.body_bytes) cipher_->begin();
  return true;
}

bool FrameReader::finish_if_whole(FrameOwner& owner) {
  if (body_have_ < body_bytes()) return true;
  header_have_ = 0;  // before `complete`, which may discard the rest of what it thinks is in progress
  if (cipher_ && header().body_bytes && !cipher_->verify(tag_)) return damaged_ = true, why_ = kForged, false;
  return owner.complete(header(), why_);
}

}  // namespace caracal::wire
