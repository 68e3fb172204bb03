// sample: Gumbel-max from a counter hash of (seed, position, id).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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

  // Scores one candidate. Its noise is at most -log(1 - u), so most ids are passed over without a logarithm.
  void offer(int64_t v, double logit) {
    uint64_t bits = splitmix64(key + static_cast<uint64_t>(v)) >> 11;
    int zeros = __builtin_clzll((1ull << 53) - bits) - 10;
    if (logit + (zeros + 1) * 0.6931471805599454 < best) return;
    double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    double score = logit - std::log(-std::log(u));
    if (score > best) {
      best = score;
      id = v;
    }
  }
};

int64_t argmax(const float* logits, int64_t size) { return std::max_element(logits, logits + size) - logits; }

// Offers what top-k, then top-p, then min-p leave, in ascending order of id.
void offer_truncated(Draw& draw, const float* logits, int64_t size, double temperature, int64_t top_k, double top_p,
                     double min_p) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  auto higher = [&](int64_t a, int64_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); };
  int64_t kept = top_k > 0 ? std::min(top_k, size) : size;
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), higher);
  double top = logits[order[0]] / temperature, total = 0;
  std::vector<double> p(kept);
  for (int64_t i = 0; i < kept; ++i) total += p[i] = std::exp(logits[order[i]] / temperature - top);
  double before = 0;
  int64_t last = 0;
  for (; last < kept; ++last) {
    bool inside = last == 0 || ((top_p >= 1 || before < top_p * total) && p[last] >= min_p * p[0]);
    if (!inside) break;
    before += p[last];
  }
  std::sort(order.begin(), order.begin() + last);
  for (int64_t i = 0; i < last; ++i) draw.offer(order[i], logits[order[i]] / temperature);
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
  Tensor ids = at::empty({rows}, logits.options().dtype(at::kLong));
  for (int64_t b = 0; b < rows; ++b) {
    const float* row = ptr<float>(logits) + b * size;
    double heat = ptr<float>(temperature)[b];
    TORCH_CHECK(heat >= 0, op, ": temperature[", b, "] is ", heat);
    int64_t& id = ptr<int64_t>(ids)[b];
    if (heat == 0) {
      id = argmax(row, size);
      continue;
    }
    Draw draw{splitmix64(splitmix64(ptr<int64_t>(seeds)[b]) + ptr<int64_t>(positions)[b])};
    int64_t k = ptr<int32_t>(top_k)[b];
    double p = ptr<float>(top_p)[b], m = ptr<float>(min_p)[b];
    if (k <= 0 && p >= 1 && m <= 0) {
      for (int64_t v = 0; v < size; ++v) draw.offer(v, row[v] / heat);
    } else {
      offer_truncated(draw, row, size, heat, k, p, m);
    }
    id = draw.id >= 0 ? draw.id : argmax(row, size);
  }
  return ids;
}

TORCH_LIBRARY_FRAGMENT(caracal, m) {
  m.def(
      "sample(Tensor logits, Tensor seeds, Tensor positions, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) { m.impl("sample", &sample); }

}  // namespace caracal
