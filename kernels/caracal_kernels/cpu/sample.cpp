// sample: Gumbel-max from a counter hash of (seed, position, id).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "dense.h"

namespace caracal {
namespace {

uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

struct Draw {
  uint64_t key;
  double best = -std::numeric_limits<double>::infinity();
  int64_t id = -1;

  // Scores one candidate; the order of offers does not matter. The noise is at most -log(1 - u), so most ids are passed
  // over without a logarithm.
  void offer(int64_t v, double logit) {
    uint64_t bits = splitmix64(key + static_cast<uint64_t>(v)) >> 11;
    int zeros = __builtin_clzll((1ull << 53) - bits) - 10;
    if (logit + (zeros + 1) * 0.6931471805599454 < best) return;
    double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    double score = logit - std::log(-std::log(u));
    if (score > best || (score == best && v < id)) {
      best = score;
      id = v;
    }
  }
};

// Larger logit first, then lower id, as one integer: a total order even over NaN.
uint64_t rank_of(float logit, int64_t id) {
  float plain = logit + 0.0f;  // -0 and 0 are equal
  uint32_t bits;
  std::memcpy(&bits, &plain, 4);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

int64_t id_of(uint64_t rank) { return 0xffffffffu - static_cast<uint32_t>(rank); }

// In units of 2^-40: sums of integers do not depend on their order.
uint64_t mass(float p) { return static_cast<uint64_t>(static_cast<double>(p) * 0x1p40); }

uint64_t mass(const uint64_t* rank, int64_t count, const float* p) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += mass(p[id_of(rank[i])]);
  return sum;
}

// How many of the best-ranked ids the nucleus keeps: the first, and each whose betters hold less than `bound`. Leaves them in
// front; narrows the place down by selection and sorts the last few only.
int64_t nucleus(uint64_t* rank, int64_t count, const float* p, double bound) {
  int64_t low = 0, high = count;
  uint64_t before = 0;  // held by rank[0 .. low)
  while (high - low > 64) {
    int64_t middle = low + (high - low) / 4;
    std::nth_element(rank + low, rank + middle, rank + high, std::greater<>());
    uint64_t more = mass(rank + low, middle - low, p);
    if (static_cast<double>(before + more) < bound) {
      before += more;
      low = middle;
    } else {
      high = middle;
    }
  }
  std::sort(rank + low, rank + high, std::greater<>());
  for (; low < high && (!low || static_cast<double>(before) < bound); ++low) before += mass(p[id_of(rank[low])]);
  return low;
}

struct Truncation {
  int64_t top_k;
  double top_p, min_p;
  bool off() const { return top_k <= 0 && top_p >= 1 && min_p <= 0; }
};

// Offers what top-k, then top-p, then min-p leave. The probabilities that decide it are fp32, up to a common factor.
void offer_truncated(Draw& draw, const float* logits, int64_t size, float heat, const Truncation& by) {
  float* p = scratch<float>(0, size);
  active<float>().exp_scaled(logits, logits[active<float>().argmax(logits, size)], heat, p, size);
  uint64_t* rank = scratch<uint64_t>(0, size);
  for (int64_t v = 0; v < size; ++v) rank[v] = rank_of(logits[v], v);
  int64_t kept = size;
  if (by.top_k > 0 && by.top_k < size) {
    kept = by.top_k;
    std::nth_element(rank, rank + kept, rank + size, std::greater<>());
  }
  if (by.top_p < 1) kept = nucleus(rank, kept, p, by.top_p * static_cast<double>(mass(rank, kept, p)));
  for (int64_t i = 0; i < kept; ++i) {
    int64_t v = id_of(rank[i]);
    if (p[v] >= by.min_p) draw.offer(v, static_cast<double>(logits[v]) / heat);
  }
}

int64_t draw_one(const float* logits, int64_t size, uint64_t key, float heat, const Truncation& by) {
  if (heat == 0) return active<float>().argmax(logits, size);
  Draw draw{key};
  if (by.off()) {
    for (int64_t v = 0; v < size; ++v) draw.offer(v, static_cast<double>(logits[v]) / heat);
  } else {
    offer_truncated(draw, logits, size, heat, by);
  }
  return draw.id >= 0 ? draw.id : active<float>().argmax(logits, size);
}

}  // namespace

Tensor sample(const Tensor& logits, const Tensor& seeds, const Tensor& positions, const Tensor& temperature,
              const Tensor& top_k, const Tensor& top_p, const Tensor& min_p) {
  const char* op = "sample";
  check(op, "logits", logits, at::kFloat, 2);
  check(op, "seeds", seeds, at::kLong, 1);
  check(op, "positions", positions, at::kLong, 1);
  check(op, "temperature", temperature, at::kFloat, 1);
  check(op, "top_k", top_k, at::kInt, 1);
  check(op, "top_p", top_p, at::kFloat, 1);
  check(op, "min_p", min_p, at::kFloat, 1);
  int64_t rows = logits.size(0), size = logits.size(1);
  for (const Tensor* t : {&seeds, &positions, &temperature, &top_k, &top_p, &min_p})
    TORCH_CHECK(t->size(0) == rows, op, ": an argument has ", t->size(0), " rows, logits has ", rows);
  TORCH_CHECK(size > 0, op, ": logits has no columns");
  for (int64_t b = 0; b < rows; ++b)
    TORCH_CHECK(ptr<float>(temperature)[b] >= 0, op, ": temperature[", b, "] is ", ptr<float>(temperature)[b]);
  Tensor ids = at::empty({rows}, logits.options().dtype(at::kLong));
  over_rows(rows, 32 * size, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      uint64_t key = splitmix64(splitmix64(ptr<int64_t>(seeds)[b]) + ptr<int64_t>(positions)[b]);
      Truncation by{ptr<int32_t>(top_k)[b], ptr<float>(top_p)[b], ptr<float>(min_p)[b]};
      ptr<int64_t>(ids)[b] = draw_one(ptr<float>(logits) + b * size, size, key, ptr<float>(temperature)[b], by);
    }
  });
  return ids;
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) { m.impl("sample", &sample); }

}  // namespace caracal
