// What another extension needs of the native sessions: to send a layer's rows to all workers and to wait for the replies.
// It calls through this interface, of which it gets a pointer in a capsule, and links with nothing of this folder.
//
// Legend: W workers, R rows of all workers together, A (row, expert) assignments of all workers together.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace caracal::wire {

// Names of capsules. One of an exchange owns it until it has been adopted, and is renamed then.
constexpr char kScattererCapsule[] = "caracal.Scatterer";
constexpr char kExchangeCapsule[] = "caracal.Exchange";
constexpr char kAdoptedCapsule[] = "caracal.Exchange, adopted";

// Rows as they are sent: of each row `bytes` from `at + row * bytes`. Two planes are fp8's values and scales.
struct Plane {
  const char* at;
  size_t bytes;
};

// The arguments of a scatter: the plan of `plan_rows`, and where rows lie and replies go.
struct Scatter {
  uint64_t step = 0, epoch = 0;
  uint32_t layer = 0, deadline_ms = 0, hidden = 0, dtype = 0;
  std::vector<Plane> planes;
  size_t workers = 0;
  const int64_t* serial = nullptr;     // [W]: the workers' sessions; below 0: not sent here
  const int32_t* row = nullptr;        // [R]: indices into the planes
  const int32_t* row_count = nullptr;  // [W]
  const int32_t* row_of = nullptr;     // [A]: indices into its worker's rows
  const int32_t* expert = nullptr;     // [A]
  const int32_t* count = nullptr;      // [W]: assignments
  char* reply = nullptr;               // [A, reply_row_bytes]
  size_t reply_row_bytes = 0;
};

struct Exchange;

// How a wait has ended.
struct Waited {
  bool all_well;     // every call brought its rows, and they are finite
  double arrived_s;  // when the last call was concluded
};

class Scatterer {
 public:
  // Changes whenever a session is added or ends, or Python has said that something else is new.
  virtual uint64_t generation() = 0;
  // Sends each worker's rows; a session that is over fails its call at once, which `wait` reports. The memory that
  // `scatter` points to is used until the exchange is concluded or released.
  virtual Exchange* scatter(const Scatter& scatter) = 0;
  // Waits until every call is concluded; after `timeout_s` the others are given up and have failed. With `leaves_overdue`
  // it returns as soon as one is overdue for its session: calls are still pending then, and not all is well.
  virtual Waited wait(Exchange& exchange, double timeout_s, bool leaves_overdue) = 0;
  // Gives an exchange back; what is still pending is given up.
  virtual void release(Exchange* exchange) = 0;

 protected:
  ~Scatterer() = default;
};

}  // namespace caracal::wire
