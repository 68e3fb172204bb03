#include "arena.h"

#include <sys/mman.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

namespace caracal {
namespace {

constexpr std::size_t kHugePage = 2u << 20, kRegion = 16 * kHugePage, kAlign = 64;

std::size_t rounded_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// One mapping, cut into pieces that come and go: experts are loaded and dropped one by one. It is unmapped with its last
// piece.
class Region {
 public:
  explicit Region(std::size_t bytes) : mapped_(bytes + kHugePage) {
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    const auto at = reinterpret_cast<std::uintptr_t>(memory_);
    const std::size_t skipped = rounded_up(at, kHugePage) - at;
    madvise(memory_ + skipped, bytes, MADV_HUGEPAGE);  // where there are none, small pages serve
    free_[skipped] = bytes;
  }
  ~Region() { munmap(memory_, mapped_); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  // The first gap that it fits into; nullptr when there is none.
  char* take(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
      if (gap->second < bytes) continue;
      const std::size_t at = gap->first, left = gap->second - bytes;
      free_.erase(gap);
      if (left) free_[at + bytes] = left;
      return memory_ + at;
    }
    return nullptr;
  }

  void give_back(char* piece, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    auto gap = free_.emplace(static_cast<std::size_t>(piece - memory_), bytes).first;
    if (const auto next = std::next(gap); next != free_.end() && gap->first + gap->second == next->first) {
      gap->second += next->second;
      free_.erase(next);
    }
    if (gap == free_.begin()) return;
    if (const auto before = std::prev(gap); before->first + before->second == gap->first) {
      before->second += gap->second;
      free_.erase(gap);
    }
  }

 private:
  const std::size_t mapped_;
  char* memory_;
  std::mutex mutex_;
  std::map<std::size_t, std::size_t> free_;  // offset and size of each gap
};

struct Arena {
  std::mutex mutex;
  std::weak_ptr<Region> shared;  // takes the small ones
};

// Never destroyed: tensors may outlive static objects.
Arena& arena() {
  static Arena* const one = new Arena;
  return *one;
}

std::shared_ptr<void> piece_of(const std::shared_ptr<Region>& region, std::size_t bytes) {
  char* piece = region->take(bytes);
  if (!piece) return nullptr;
  return {piece, [region, bytes](void* memory) { region->give_back(static_cast<char*>(memory), bytes); }};
}

}  // namespace

std::shared_ptr<void> arena_memory(std::size_t bytes) {
  bytes = rounded_up(bytes ? bytes : 1, kAlign);
  if (bytes > kRegion / 4) return piece_of(std::make_shared<Region>(rounded_up(bytes, kHugePage)), bytes);
  std::lock_guard lock(arena().mutex);
  if (const auto region = arena().shared.lock()) {
    if (auto piece = piece_of(region, bytes)) return piece;
  }
  const auto region = std::make_shared<Region>(kRegion);
  arena().shared = region;
  return piece_of(region, bytes);
}

}  // namespace caracal
