// Whether it pays to poll before going to sleep: a sleeping thread's wake-up costs more than most messages.
#pragma once
#include <sched.h>

#include "frame.h"

namespace caracal::wire {

// Polls as long as waits have lately been short, longer ones would burn the core and sleep all the same; and as long as
// nobody else wants the core: who polls there is scheduled like one who works, and makes those wait whose work it awaits.
class SpinPolicy {
 public:
  explicit SpinPolicy(double limit_s) : limit_s_(limit_s) {}

  // Seconds to poll before the next sleep.
  double seconds() const { return mean_s_ < 2 * limit_s_ && crowded_ < kTooCrowded ? limit_s_ : 0; }

  // Lets others run; returns whether to go on polling.
  bool yield() {
    const double began_s = now_s();
    sched_yield();
    const bool crowded = now_s() - began_s > kOthersRanS;
    crowded_ += (crowded - crowded_) / 8;
    return !crowded;
  }

  // Learns how long a wait took. An outlier counts as eight limits, so that a pause is soon forgotten.
  void learn(double waited_s) {
    const double capped_s = waited_s < 8 * limit_s_ ? waited_s : 8 * limit_s_;
    mean_s_ += (capped_s - mean_s_) / 8;
    crowded_ *= kForgets;  // so that a core that was crowded is tried again
  }

 private:
  static constexpr double kOthersRanS = 20e-6;  // a yield to nobody takes less than one
  static constexpr double kTooCrowded = 0.1, kForgets = 0.98;

  const double limit_s_;
  double mean_s_ = 0, crowded_ = 0;
};

}  // namespace caracal::wire
