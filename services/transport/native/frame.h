// The frames of a native session: a header of fixed size, little-endian, and a body.
//
// HELLO    caller -> worker, once     body: the one-time token that the Open rpc returned, and with keys a tag over it
// WELCOME  worker -> caller, once     no body; calls may follow
// CALL     caller -> worker           body: row int32 [A], expert int32 [A], then the payload of the rows
// REPLY    worker -> caller           body: the payload [A, D] when status is OK, else a message in UTF-8. Of call 0 and
//                                     kDamaged: a frame could not be read, and the session ends
// PING     caller -> worker, PONG back: no body; they show that the peer's process runs
//
// With keys, which the Open rpc returns as well, every frame after HELLO is encrypted (cipher.h): the header with its tag
// after it, then the body, if there is one, with its own. HELLO's tag is the caller's message 0, over the token.
//
// Legend: A (row, expert) assignments of a call, D hidden.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>

#include "crc32c.h"

namespace caracal::wire {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are sent as they lie in memory");

constexpr uint32_t kMagic = 0x4C524143;  // "CARL"
constexpr uint16_t kVersion = 1;
constexpr size_t kTokenBytes = 32;
constexpr uint64_t kMaxBodyBytes = uint64_t{1} << 30;
constexpr size_t kMaxMessageBytes = 4096;  // of a REPLY that rejects a call

enum class Kind : uint16_t { kHello = 1, kWelcome, kCall, kReply, kPing, kPong };

// The numbers of ExpertReply.Status in expert.proto.
enum class Status : uint32_t { kOk = 0, kNotLoaded = 1, kStaleEpoch = 2, kInvalid = 3, kDeadlineExceeded = 4, kDamaged = 6 };

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  Kind kind{};
  uint64_t session = 0;
  uint64_t call = 0;  // unique in the session; the reply repeats it
  uint64_t step = 0;
  uint64_t epoch = 0;  // of a CALL: the table's; of a REPLY: the worker's
  uint32_t layer = 0;
  uint32_t deadline_ms = 0;  // time left when sent; 0 = none
  uint32_t rows = 0;
  uint32_t assignments = 0;
  uint32_t hidden = 0;
  uint32_t dtype = 0;  // of the payload, a number of DType in tensor.proto
  Status status = Status::kOk;
  uint32_t body_crc = 0;
  uint64_t body_bytes = 0;
  uint32_t reserved = 0;
  uint32_t header_crc = 0;  // of everything before it
};
static_assert(sizeof(Header) == 88 && offsetof(Header, header_crc) == 84, "the header has no padding");

inline void seal(Header& header) { header.header_crc = crc32c(0, &header, offsetof(Header, header_crc)); }

// What is wrong with a header whoever sent it; nullptr when nothing is.
inline const char* fault_of(const Header& header) {
  if (header.magic != kMagic) return "what came is not a frame";
  if (header.version != kVersion) return "the frame is of another version";
  if (header.header_crc != crc32c(0, &header, offsetof(Header, header_crc))) return "a header fails its checksum";
  if (header.reserved) return "a reserved field is set";
  return nullptr;
}

// Seconds of the clock that Python's time.monotonic and time.perf_counter read.
inline double now_s() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace caracal::wire
