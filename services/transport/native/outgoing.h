// Bytes on their way into a socket, gathered from where they lie.
#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace caracal::wire {

// A frame that is being sent. The memory it points to must stay as it is until `left` is 0.
class Outgoing {
 public:
  void clear();
  // Adds bytes; what follows directly in memory on the bytes before becomes one piece with them.
  void add(const void* at, size_t bytes);
  // Adds the pieces of another that nothing has been sent of.
  void add(const Outgoing& other);
  // The first bytes that have not been sent, of which there have to be some, and that so many of them have been.
  iovec front() const { return pieces_[at_]; }
  void consume(size_t bytes);
  // Sends what the socket takes; false when it has failed (errno).
  bool send_some(int fd);
  size_t left() const { return left_; }
  size_t pieces() const { return pieces_.size(); }
  // The CRC32C of the pieces from `first` on, before anything was sent.
  uint32_t crc32c_from(size_t first) const;
  bool begun() const { return sent_ > 0; }
  // Appends what has not been sent yet to `copy`.
  void copy_rest(std::vector<char>& copy) const;

 private:
  std::vector<iovec> pieces_;
  size_t at_ = 0;  // the first piece with unsent bytes
  size_t left_ = 0, sent_ = 0;
};

}  // namespace caracal::wire
