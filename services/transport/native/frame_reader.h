// Reads frames off a socket, header first: nothing is stored for a body before its owner has accepted the header. Frames
// that are encrypted are decrypted where they lie, piece by piece as they come; one that fails its tag ends the session.
#pragma once
#include <memory>
#include <vector>

#include "cipher.h"
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
  // Frames are encrypted, from the next one on.
  void decrypt_with(std::unique_ptr<Cipher> cipher);
  // The body in progress goes nowhere from now on: its memory is no longer the owner's to give.
  void discard_rest() { at_ = nullptr; }

  const char* why() const { return why_; }
  // Whether what was refused is not what was sent, so that nothing that follows can be read.
  bool damaged() const { return damaged_; }
  bool in_body() const { return header_have_ == header_bytes(); }
  const Header& header() const { return head_.header; }

 private:
  Read read_header(int fd, FrameOwner& owner);
  Read read_body(int fd, FrameOwner& owner);
  bool begin(FrameOwner& owner);
  bool finish_if_whole(FrameOwner& owner);
  Read ended(long received);
  // Sizes on the wire, with tags.
  size_t header_bytes() const { return sizeof(Header) + tag_bytes_; }
  size_t body_bytes() const { return header().body_bytes ? header().body_bytes + tag_bytes_ : 0; }
  // Of the next `bytes` that come of a body and its tag, those of the body.
  size_t of_body(size_t bytes) const;
  void take_guessed(size_t guessed, size_t late);
  void take(const char* data, size_t bytes);

  struct {
    Header header;
    char tag[kTagBytes];
  } head_;
  size_t header_have_ = 0, body_have_ = 0;
  std::unique_ptr<Cipher> cipher_;
  size_t tag_bytes_ = 0;  // 0 without a cipher
  char tag_[kTagBytes];   // of the body
  char late_[kTagBytes];  // bytes that came after a guess
  char* at_ = nullptr;  // of the body; nullptr discards it
  const char* why_ = "";
  bool damaged_ = false;
  std::vector<char> spill_;  // bytes that were received into a wrong guess
};

}  // namespace caracal::wire
