// Threads that share the work of one op: the calling one and its helpers, which poll for a while before they sleep.
//
// OpenMP's threads sleep between ops, or poll all the time: in a step of a hundred ops of 20 us the first costs more than
// the second thread brings, the second takes the core from whoever shares it. A helper joins an op if it is awake; the
// caller waits for those that have joined, never for one that sleeps or has lost its core before it began.
#pragma once
#include <cstdint>

namespace caracal {

using TeamBody = void (*)(const void* body, int64_t begin, int64_t end);

// body(begin, end) over parts of [0, count) of at least `grain` each, over as many threads as torch gives the caller.
void run_team(int64_t count, int64_t grain, TeamBody run, const void* body);

template <typename F>
void in_parallel(int64_t count, int64_t grain, const F& body) {
  run_team(
      count, grain, [](const void* at, int64_t begin, int64_t end) { (*static_cast<const F*>(at))(begin, end); }, &body);
}

}  // namespace caracal
