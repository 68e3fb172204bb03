// The server's two threads: the loop that launches, and the one that stands in for it meanwhile.
#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "server.h"

namespace caracal::wire {
namespace {

constexpr int kMaxPolls = 16;     // before a launch: a flood of calls must not keep it from starting
constexpr int kSleepMs = 500;     // until the next housekeeping
constexpr auto kStandInEvery = std::chrono::milliseconds(10);

}  // namespace

void Server::loop() {
  pthread_setname_np(pthread_self(), "launches");
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    keep_house();
    if (jobs_.empty()) wait_for_input(lock);
    for (int polls = 0; polls < kMaxPolls && poll_once(0, lock);) ++polls;
    if (!jobs_.empty() && !stopping_) serve(lock);
  }
}

void Server::wait_for_input(std::unique_lock<std::mutex>& lock) {
  const double began_s = now_s(), until_s = began_s + spin_.seconds();
  bool spins = true;
  while (jobs_.empty() && !stopping_) {
    spins = spins && now_s() < until_s;
    if (poll_once(spins ? 0 : kSleepMs, lock)) continue;
    if (!spins) break;
    spins = spin_.yield();
  }
  spin_.learn(now_s() - began_s);
}

// It looks now and then while there are launches: waking it for each would cost more than most of them take.
void Server::stand_in() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const uint64_t launches = launches_;
    standing_in_.wait_for(lock, kStandInEvery, [&] { return stopping_; });
    if (launching_ && launches == launches_ && !stopping_) {
      poll_once(0, lock);
      keep_house();
    } else if (launches == launches_) {
      stand_in_sleeps_ = true;
      standing_in_.wait(lock, [&] { return launching_ || stopping_; });
      stand_in_sleeps_ = false;
    }
  }
}

void Server::take_jobs() {
  taken_.clear();
  const uint32_t layer = jobs_.front().header.layer;
  uint64_t rows = 0;
  for (size_t left = jobs_.size(); left; --left) {
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const bool fits = taken_.empty() || (job.header.layer == layer && rows + job.header.rows <= options_.max_merged_rows);
    if (!fits) {
      jobs_.push_back(std::move(job));  // once around: their order stays
      continue;
    }
    rows += job.header.rows;
    if (const auto found = connections_.find(job.serial); found != connections_.end()) {
      --found->second->queued;
      watch(*found->second);
    }
    taken_.push_back(std::move(job));
  }
}

void Server::serve(std::unique_lock<std::mutex>& lock) {
  take_jobs();
  reject_late(lock);
  merged_.clear();
  for (Job& job : taken_) merged_.push_back(&job);
  if (!merged_.empty() && !launch(merged_, lock)) {
    for (Job& job : taken_) launch({&job}, lock);
  }
  for (Job& job : taken_) pool_.give(std::move(job.body));
  taken_.clear();
  remove_ended();
}

void Server::reject_late(std::unique_lock<std::mutex>& lock) {
  const double now = now_s();
  std::vector<double> waited_s;
  for (Job& job : taken_) {
    if (job.deadline_s >= now) continue;
    waited_s.push_back(now - job.arrived_s);
    conclude(job, {false, false, Status::kDeadlineExceeded, "the deadline passed before the rows were computed"});
    pool_.give(std::move(job.body));
  }
  if (waited_s.empty()) return;
  std::erase_if(taken_, [&](const Job& job) { return job.deadline_s < now; });
  counters_.late += waited_s.size();
  Launch report;
  report.calls = waited_s.size();
  report.waited_s = waited_s.data();
  lock.unlock();
  launch_(report);
  lock.lock();
}

// Computes jobs of one layer and answers them. False: a launch of several has failed, and each is to be tried alone.
bool Server::launch(const std::vector<Job*>& jobs, std::unique_lock<std::mutex>& lock) {
  launching_ = true;
  ++launches_;
  if (stand_in_sleeps_) standing_in_.notify_one();
  lock.unlock();
  const LaunchResult result = launch_(merger_.merge(jobs, now_s()));
  lock.lock();
  launching_ = false;
  if (!result.ok && jobs.size() > 1) return false;
  for (size_t i = 0; i < jobs.size(); ++i) {
    rows_.clear();
    if (result.ok) merger_.output_of(i, rows_);
    conclude(*jobs[i], result);
  }
  return true;
}

void Server::conclude(Job& job, const LaunchResult& result) {
  const auto found = connections_.find(job.serial);
  if (found == connections_.end()) return answered(result.ok);
  Connection& connection = *found->second;
  if (result.ok) {
    connection.reply(job.header, rows_);
  } else if (result.broken) {
    connection.end("a launch failed");
  } else {
    connection.reject(job.header, result.status, result.message);
  }
  watch(connection);
}

}  // namespace caracal::wire
