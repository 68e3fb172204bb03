// How frames leave through a session's socket: as they lie in memory, or encrypted, some 64 KiB at a time.
#pragma once
#include <memory>
#include <vector>

#include "cipher.h"
#include "outgoing.h"

namespace caracal::wire {

class Sender {
 public:
  // From the next frame on.
  void encrypt_with(std::unique_ptr<Cipher> cipher);
  // Sends of a frame what the socket takes; false when that or encryption has failed (errno).
  bool send_some(int fd, Outgoing& frame);
  // Whether there is more of the frame to send. It is of the one that was begun last.
  bool unsent(const Outgoing& frame) const { return frame.left() || at_ < end_; }
  // Appends to `copy` what has not been sent of a frame, which needs its memory no more; false when encryption has failed.
  bool copy_rest(Outgoing& frame, std::vector<char>& copy);

 private:
  static constexpr size_t kChunk = 64 << 10;

  bool fill(Outgoing& frame);

  std::unique_ptr<Cipher> cipher_;
  std::unique_ptr<char[]> chunk_;
  size_t at_ = 0, end_ = 0;  // of what is encrypted and not yet sent
  size_t taken_ = 0;         // bytes of the frame that are encrypted
};

}  // namespace caracal::wire
