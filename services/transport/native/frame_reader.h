// Reads frames off a socket, header first: nothing is stored for a body before its owner has accepted the header.
#pragma once
#include <vector>

#include "frame.h"

namespace caracal::wire {

struct Region {
  char* at = nullptr;
  size_t bytes = 0;
};

// Whose frames they are: the caller's session, or the worker's connection.
class FrameOwner {
 public:
  // Accepts a header that passed `fault_of` and says where its body goes: `at` is nullptr to discard it.
  // False ends the session; `why` must then be set.
  virtual bool begin(const Header& header, char*& at, const char*& why) = 0;
  // The frame is whole. False ends the session; `why` must then be set.
  virtual bool complete(const Header& header, const char*& why) = 0;
  // Memory of the owner's that the next body is likely to go to, received in the same system call as its header.
  // What it holds is lost. Its `at` may be what `begin` returns next; it stays readable until `begin` has returned.
  virtual Region guess() = 0;

 protected:
  ~FrameOwner() = default;
};

enum class Read { kSome, kNothing, kEnded };

class FrameReader {
 public:
  // Takes in what one receive returns. kEnded: the peer closed, the socket failed or a frame was refused; see `why`.
  Read read(int fd, FrameOwner& owner);
  // The same for bytes in memory. False: a frame was refused.
  bool feed(const char* data, size_t bytes, FrameOwner& owner);
  // The body in progress goes nowhere from now on: its memory is no longer the owner's to give.
  void discard_rest() { at_ = nullptr; }

  const char* why() const { return why_; }
  bool in_body() const { return header_have_ == sizeof(Header); }
  const Header& header() const { return header_; }

 private:
  Read read_header(int fd, FrameOwner& owner);
  Read read_body(int fd, FrameOwner& owner);
  bool begin(FrameOwner& owner);
  bool finish_if_whole(FrameOwner& owner);
  Read ended(long received);

  Header header_;
  size_t header_have_ = 0, body_have_ = 0;
  char* at_ = nullptr;  // of the body; nullptr discards it
  const char* why_ = "";
  std::vector<char> spill_;  // bytes that were received into a wrong guess
};

}  // namespace caracal::wire
