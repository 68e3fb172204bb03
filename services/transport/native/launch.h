// One launch of the experts of a layer over the rows of one or several calls.
//
// Legend: R rows of all calls of the launch, A (row, expert) assignments of all, ascending by (expert, row).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "connection.h"

namespace caracal::wire {

struct Launch {
  uint32_t layer = 0;
  size_t calls = 0;
  const double* waited_s = nullptr;  // [calls]: from a call's arrival to now
  // A launch without assignments only reports calls whose deadline has passed.
  size_t rows = 0, assignments = 0;
  const char* payload = nullptr;  // of R rows, in the form in which rows are sent
  size_t payload_bytes = 0;
  const int32_t* row = nullptr;     // [A]
  const int32_t* expert = nullptr;  // [A]
  char* out = nullptr;              // [A, D], to be written
  size_t out_bytes = 0;
};

struct LaunchResult {
  bool ok = true;
  bool broken = false;  // not the call's fault: its session ends
  Status status = Status::kOk;
  std::string message;
};

using LaunchFunction = std::function<LaunchResult(const Launch&)>;

// Makes one launch of several calls, and finds each call's rows in its output. Its memory is used again.
class Merger {
 public:
  explicit Merger(const Expected& expected) : expected_(expected) {}
  // Valid until the next `merge`. All jobs are of one layer.
  const Launch& merge(const std::vector<Job*>& jobs, double now_s);
  // Adds to `rows` where the output rows of the job lie, in the order of its assignments.
  void output_of(size_t job, Outgoing& rows) const;

 private:
  void merge_assignments(const std::vector<Job*>& jobs);
  void merge_payloads(const std::vector<Job*>& jobs);

  const Expected& expected_;
  Launch launch_;
  std::vector<double> waited_s_;
  std::vector<size_t> first_;     // [calls + 1]: where each job's assignments begin among all, as they came
  std::vector<uint32_t> place_;   // [A] as they came -> index in the launch; unused with one job
  std::vector<uint32_t> begin_;   // [experts + 1], scratch
  std::vector<int32_t> row_, expert_;
  Buffer payload_, out_;
};

}  // namespace caracal::wire
