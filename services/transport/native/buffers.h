// Memory for bodies, used again and again: after warm-up a message allocates nothing.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace caracal::wire {

// Bytes without a value until something is received into them, so that a large size costs only address space.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : at_(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))), bytes_(bytes) {
    if (!at_) throw std::bad_alloc();
  }
  char* at() const { return at_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* at) const { std::free(at); }
  };
  std::unique_ptr<char, Free> at_;
  size_t bytes_ = 0;
};

// Used by one thread at a time. It keeps at most `kKept` buffers and `kKeptBytes` in all.
class BufferPool {
 public:
  // A buffer of at least `bytes`: the smallest kept one that fits, else a new one.
  Buffer take(size_t bytes) {
    size_t best = free_.size();
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].bytes() >= bytes && (best == free_.size() || free_[i].bytes() < free_[best].bytes())) best = i;
    }
    if (best == free_.size()) return Buffer(bytes < kSmallest ? kSmallest : bytes);
    Buffer found = std::move(free_[best]);
    free_[best] = std::move(free_.back());
    free_.pop_back();
    kept_ -= found.bytes();
    return found;
  }

  void give(Buffer buffer) {
    if (!buffer.at() || free_.size() >= kKept || kept_ + buffer.bytes() > kKeptBytes) return;
    kept_ += buffer.bytes();
    free_.push_back(std::move(buffer));
  }

 private:
  static constexpr size_t kKept = 64, kKeptBytes = size_t{512} << 20, kSmallest = 64 << 10;
  std::vector<Buffer> free_;
  size_t kept_ = 0;
};

}  // namespace caracal::wire
