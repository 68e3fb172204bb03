#include "launch.h"

#include <cstring>

namespace caracal::wire {
namespace {

void reserve(Buffer& buffer, size_t bytes) {
  if (buffer.bytes() < bytes) buffer = Buffer(bytes + bytes / 2);
}

}  // namespace

const Launch& Merger::merge(const std::vector<Job*>& jobs, double now_s) {
  waited_s_.clear();
  first_.assign(1, 0);
  size_t rows = 0;
  for (const Job* job : jobs) {
    waited_s_.push_back(now_s - job->arrived_s);
    first_.push_back(first_.back() + job->header.assignments);
    rows += job->header.rows;
  }
  launch_.layer = jobs.front()->header.layer;
  launch_.calls = jobs.size();
  launch_.waited_s = waited_s_.data();
  launch_.rows = rows;
  launch_.assignments = first_.back();
  launch_.payload_bytes = rows * expected_.row_bytes();
  launch_.out_bytes = first_.back() * expected_.reply_row_bytes();
  reserve(out_, launch_.out_bytes);
  launch_.out = out_.at();
  if (jobs.size() == 1) {
    launch_.payload = jobs.front()->payload();
    launch_.row = jobs.front()->row_of();
    launch_.expert = jobs.front()->expert();
    return launch_;
  }
  merge_assignments(jobs);
  merge_payloads(jobs);
  return launch_;
}

// A counting sort by expert; jobs and rows keep their order, so that (expert, row) ascends.
void Merger::merge_assignments(const std::vector<Job*>& jobs) {
  begin_.assign(expected_.experts + 1, 0);
  for (const Job* job : jobs) {
    for (uint32_t i = 0; i < job->header.assignments; ++i) ++begin_[static_cast<size_t>(job->expert()[i]) + 1];
  }
  for (size_t e = 0; e < expected_.experts; ++e) begin_[e + 1] += begin_[e];
  place_.resize(first_.back());
  row_.resize(first_.back());
  expert_.resize(first_.back());
  size_t next = 0;
  int32_t rows_before = 0;
  for (const Job* job : jobs) {
    for (uint32_t i = 0; i < job->header.assignments; ++i) {
      const int32_t expert = job->expert()[i];
      const uint32_t place = place_[next++] = begin_[static_cast<size_t>(expert)]++;
      expert_[place] = expert;
      row_[place] = rows_before + job->row_of()[i];
    }
    rows_before += static_cast<int32_t>(job->header.rows);
  }
  launch_.row = row_.data();
  launch_.expert = expert_.data();
}

// Plane by plane: the form of a payload of all rows.
void Merger::merge_payloads(const std::vector<Job*>& jobs) {
  reserve(payload_, launch_.payload_bytes);
  char* to = payload_.at();
  size_t before = 0;  // bytes of a row in the planes before
  for (const size_t plane : expected_.planes) {
    for (const Job* job : jobs) {
      const size_t bytes = plane * job->header.rows;
      std::memcpy(to, job->payload() + before * job->header.rows, bytes);
      to += bytes;
    }
    before += plane;
  }
  launch_.payload = payload_.at();
}

void Merger::output_of(size_t job, Outgoing& rows) const {
  const size_t bytes = expected_.reply_row_bytes();
  if (launch_.calls == 1) return rows.add(launch_.out, launch_.out_bytes);
  for (size_t i = first_[job]; i < first_[job + 1]; ++i) rows.add(launch_.out + place_[i] * bytes, bytes);
}

}  // namespace caracal::wire
