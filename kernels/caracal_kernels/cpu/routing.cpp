// route, plan_rows. G gate outputs, K choices, W workers.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "weights.h"

namespace caracal {

std::tuple<Tensor, Tensor, Tensor> route(const Tensor& h, const Tensor& classifier, const Tensor& bias, int64_t top_k,
                                         int64_t num_ffn, double scale, bool norm_topk) {
  const char* op = "route";
  auto dtype = model_dtype(op, "h", h);
  check(op, "h", h, dtype, 2);
  const MatrixShape shape = matrix_shape(op, "classifier", classifier, at::kFloat);
  check(op, "bias", bias, at::kFloat, 1);
  int64_t tokens = h.size(0), width = h.size(1), outputs = shape.columns;
  check_depth(op, "classifier", shape, width);
  check_size(op, "bias", bias, 0, outputs);
  TORCH_CHECK(top_k >= 1 && top_k <= outputs, op, ": top_k ", top_k, " of ", outputs, " experts");
  Tensor ids = at::empty({tokens, top_k}, h.options().dtype(at::kInt));
  Tensor weights = at::empty({tokens, top_k}, h.options().dtype(at::kFloat));
  Tensor zero = at::empty({tokens}, h.options().dtype(at::kFloat));
  const auto& k = active<float>();
  const float* wide = ptr<float>(h);
  if (dtype == at::kBFloat16) {
    float* buffer = scratch<float>(6, tokens * width);
    active<bf16>().widen(ptr<bf16>(h), buffer, tokens * width);
    wide = buffer;
  }
  float* scores = scratch<float>(0, tokens * outputs);
  product<float>(wide, width, shape.matrix<float>(classifier), scores, outputs, tokens);
  std::vector<int32_t> order(outputs);
  std::vector<float> selection(outputs);
  for (int64_t t = 0; t < tokens; ++t) {
    float* p = scores + t * outputs;
    k.softmax(p, outputs);
    for (int64_t e = 0; e < outputs; ++e) {
      order[e] = static_cast<int32_t>(e);
      float with_bias = p[e] + ptr<float>(bias)[e];
      selection[e] = with_bias == with_bias ? with_bias : -INFINITY;  // NaN would break the order, and with it the sort
    }
    auto better = [&](int32_t i, int32_t j) { return selection[i] > selection[j] || (selection[i] == selection[j] && i < j); };
    std::nth_element(order.begin(), order.begin() + (top_k - 1), order.end(), better);
    int32_t* chosen = ptr<int32_t>(ids) + t * top_k;
    std::copy_n(order.begin(), top_k, chosen);
    std::sort(chosen, chosen + top_k);
    float total = 0.0f, nothing = 0.0f;
    for (int64_t s = 0; s < top_k; ++s) total += p[chosen[s]];
    for (int64_t s = 0; s < top_k; ++s) {
      float w = norm_topk ? p[chosen[s]] / (total + 1e-20f) : p[chosen[s]];
      w *= static_cast<float>(scale);
      ptr<float>(weights)[t * top_k + s] = w;
      if (chosen[s] >= num_ffn) nothing += w;
    }
    ptr<float>(zero)[t] = nothing;
  }
  return {ids, weights, zero};
}

uint32_t mix(uint32_t layer, uint32_t expert, uint32_t position) {
  uint32_t h = layer * 0x9E3779B1u ^ expert * 0x85EBCA77u ^ position * 0xC2B2AE3Du;
  h = (h ^ h >> 16) * 0x85EBCA6Bu;
  h = (h ^ h >> 13) * 0xC2B2AE35u;
  return h ^ h >> 16;
}

using Plan = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Plan plan_rows(const Tensor& ids, const Tensor& positions, int64_t layer, int64_t num_ffn, const Tensor& offset,
               const Tensor& worker, int64_t num_workers) {
  const char* op = "plan_rows";
  check(op, "ids", ids, at::kInt, 2);
  check(op, "positions", positions, at::kInt, 1);
  check(op, "replica_offset", offset, at::kInt, 1);
  check(op, "replica_worker", worker, at::kInt, 1);
  check_size(op, "positions", positions, 0, ids.size(0));
  check_size(op, "replica_offset", offset, 0, num_ffn + 1);
  const int32_t* offsets = ptr<int32_t>(offset);
  for (int64_t e = 0; e < num_ffn; ++e)
    TORCH_CHECK(offsets[e] >= 0 && offsets[e] <= offsets[e + 1], op, ": replica_offset falls at ", e);
  TORCH_CHECK(offsets[num_ffn] <= worker.size(0), op, ": replica_offset points past replica_worker");
  int64_t tokens = ids.size(0), choices = ids.size(1);
  struct Assignment {
    int32_t expert, token, choice;
  };
  std::vector<std::vector<Assignment>> wanted(num_workers);
  Tensor reply_index = at::full(ids.sizes(), -1, ids.options());
  int32_t* reply_indices = ptr<int32_t>(reply_index);
  int64_t assignments = 0;
  for (int32_t t = 0; t < tokens; ++t)
    for (int32_t s = 0; s < choices; ++s) {
      int32_t e = ptr<int32_t>(ids)[t * choices + s];
      TORCH_CHECK(e >= 0, op, ": ids[", t, ", ", s, "] is negative");
      if (e >= num_ffn) continue;
      uint32_t replicas = offsets[e + 1] - offsets[e];
      if (!replicas) {
        reply_indices[t * choices + s] = -2;
        continue;
      }
      uint32_t pick = mix(static_cast<uint32_t>(layer), e, ptr<int32_t>(positions)[t]) % replicas;
      int32_t w = ptr<int32_t>(worker)[offsets[e] + pick];
      TORCH_CHECK(w >= 0 && w < num_workers, op, ": replica_worker names worker ", w, " of ", num_workers);
      wanted[w].push_back({e, t, s});
      ++assignments;
    }
  auto ints = [&](int64_t n) { return at::empty({n}, ids.options()); };
  Tensor row_count = ints(num_workers), assigned_row = ints(assignments), assigned_expert = ints(assignments), assigned_count = ints(num_workers);
  std::vector<int32_t> rows, place(tokens);
  int32_t next = 0;
  for (int64_t w = 0; w < num_workers; ++w) {
    auto& own = wanted[w];
    std::fill(place.begin(), place.end(), -1);
    for (const Assignment& p : own) place[p.token] = 0;
    int32_t count = 0;
    for (int32_t t = 0; t < tokens; ++t)
      if (place[t] == 0) {
        place[t] = count++;
        rows.push_back(t);
      }
    std::sort(own.begin(), own.end(), [](const Assignment& a, const Assignment& b) {
      return std::tie(a.expert, a.token) < std::tie(b.expert, b.token);
    });
    for (const Assignment& p : own) {
      reply_indices[p.token * choices + p.choice] = next;
      ptr<int32_t>(assigned_row)[next] = place[p.token];
      ptr<int32_t>(assigned_expert)[next++] = p.expert;
    }
    ptr<int32_t>(row_count)[w] = count;
    ptr<int32_t>(assigned_count)[w] = static_cast<int32_t>(own.size());
  }
  Tensor row = ints(static_cast<int64_t>(rows.size()));
  std::copy(rows.begin(), rows.end(), ptr<int32_t>(row));
  return {row, row_count, assigned_row, assigned_expert, assigned_count, reply_index};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> route_rows(
    const Tensor& h, const Tensor& classifier, const Tensor& bias, int64_t top_k, int64_t num_ffn, double scale,
    bool norm_topk, const Tensor& positions, int64_t layer, const Tensor& offset, const Tensor& worker, int64_t num_workers) {
  auto routed = route(h, classifier, bias, top_k, num_ffn, scale, norm_topk);
  return std::tuple_cat(routed, plan_rows(std::get<0>(routed), positions, layer, num_ffn, offset, worker, num_workers));
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) {
  m.impl("route", &route);
  m.impl("plan_rows", &plan_rows);
  m.impl("route_rows", &route_rows);
}

}  // namespace caracal
