// Whether it pays to poll before going to sleep: a sleeping thread's wake-up costs more than most messages.
#pragma once

namespace caracal::wire {

// Polls as long as waits have lately been short; longer ones would burn the core and sleep all the same.
class SpinPolicy {
 public:
  explicit SpinPolicy(double limit_s) : limit_s_(limit_s) {}
  // Seconds to poll before the next sleep.
  double seconds() const { return mean_s_ < 2 * limit_s_ ? limit_s_ : 0; }
  // Learns how long a wait took. An outlier counts as eight limits, so that a pause is soon forgotten.
  void learn(double waited_s) {
    const double capped_s = waited_s < 8 * limit_s_ ? waited_s : 8 * limit_s_;
    mean_s_ += (capped_s - mean_s_) / 8;
  }

 private:
  const double limit_s_;
  double mean_s_ = 0;
};

}  // namespace caracal::wire
