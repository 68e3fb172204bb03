// Checks a call before anything is computed for it: what services/expert_worker/call_check.py does for gRPC.
#include "connection.h"

namespace caracal::wire {
namespace {

using std::to_string;

std::string bad_assignments(const Job& job, uint32_t experts) {
  const uint32_t count = job.header.assignments;
  const uint64_t rows = job.header.rows;
  const int32_t *row = job.row_of(), *expert = job.expert();
  if (!count || count > rows * experts) {
    return to_string(4 * uint64_t{count}) + " bytes of row indices, " + to_string(4 * uint64_t{count}) +
           " of experts, for " + to_string(rows) + " rows and " + to_string(experts) + " experts";
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (row[i] < 0 || static_cast<uint64_t>(row[i]) >= rows) return "a row outside 0.." + to_string(int64_t(rows) - 1);
  }
  for (uint32_t i = 1; i < count; ++i) {
    if (expert[i] < expert[i - 1] || (expert[i] == expert[i - 1] && row[i] <= row[i - 1])) {
      return "assignments do not ascend by (expert, row)";
    }
  }
  if (expert[0] < 0 || static_cast<uint32_t>(expert[count - 1]) >= experts) {
    return "an expert outside 0.." + to_string(int64_t(experts) - 1);
  }
  return "";
}

}  // namespace

std::string violation(const Job& job, const Expected& expected) {
  const Header& call = job.header;
  const std::string shape = "[" + to_string(call.rows) + ", " + to_string(call.hidden) + "]";
  if (call.layer >= expected.layers) {
    return "layer " + to_string(call.layer) + " of a model with " + to_string(expected.layers);
  }
  if (call.dtype != expected.dispatch_dtype) {
    return "x is dtype " + to_string(call.dtype) + ", this worker takes rows in " + expected.dispatch_dtype_name;
  }
  if (call.hidden != expected.hidden) {
    return "x is " + shape + ", not [" + to_string(call.rows) + ", " + to_string(expected.hidden) + "]";
  }
  const uint64_t carried = call.body_bytes - 2 * sizeof(int32_t) * uint64_t{call.assignments};
  if (carried != uint64_t{call.rows} * expected.row_bytes()) {
    return "x carries " + to_string(carried) + " bytes for " + shape;
  }
  return bad_assignments(job, expected.experts);
}

}  // namespace caracal::wire
