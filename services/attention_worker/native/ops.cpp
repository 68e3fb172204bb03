#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace caracal::stack {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

Tensor mla_project(const Tensor& x, const MlaWeights& w, const Tensor& positions, const Tensor& slot_mapping,
                   const Tensor& cache) {
  using T = const Tensor&;
  using Op = Tensor(T, T, T, Tensor, T, T, T, T, T, T, T, T, double, double, double, double);
  static const auto op = find<Op>("caracal::mla_project");
  return op.call(x, positions, slot_mapping, cache, w.norm, w.q_a, w.q_a_norm, w.q_b, w.kv_a, w.kv_a_norm, w.w_uk, w.cos_sin,
                 w.norm_eps, w.lora_eps, w.q_scale, w.kv_scale);
}

Tensor mla_attention(const Tensor& q, const Tensor& cache, const Tensor& page_table, const Tensor& seq, const Tensor& positions,
                     double scale, int64_t latent, int64_t sink_blocks, int64_t recent_blocks) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, T, T, T, double, int64_t, int64_t, int64_t)>("caracal::mla_attention");
  return op.call(q, cache, page_table, seq, positions, scale, latent, sink_blocks, recent_blocks);
}

Tensor mla_output(const Tensor& o, const MlaWeights& w, const Tensor& residual) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, T, T)>("caracal::mla_output");
  return op.call(o, w.w_uv, w.o_proj, residual);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, double)>("caracal::rms_norm");
  return op.call(x, weight, eps);
}

Tensor swiglu(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, T, const std::optional<Tensor>&)>("caracal::swiglu");
  return op.call(x, gate_up, down, residual);
}

Routed route_rows(const Tensor& h, const Tensor& classifier, const Tensor& bias, const Gate& gate, const Tensor& positions,
                  int64_t layer, const Tensor& replica_offset, const Tensor& replica_worker, int64_t workers) {
  using T = const Tensor&;
  using Op = Routed(T, T, T, int64_t, int64_t, double, bool, T, int64_t, T, T, int64_t);
  static const auto op = find<Op>("caracal::route_rows");
  return op.call(h, classifier, bias, gate.top_k, gate.num_ffn, gate.scale, gate.norm_topk, positions, layer, replica_offset,
                 replica_worker, workers);
}

Tensor linear(const Tensor& x, const Tensor& weight, at::ScalarType out) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, const std::optional<Tensor>&, std::optional<at::ScalarType>)>("caracal::linear");
  return op.call(x, weight, std::nullopt, out);
}

std::tuple<Tensor, Tensor> row_checks(const Tensor& rows) {
  static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&)>("caracal::row_checks");
  return op.call(rows);
}

Tensor sample(const Tensor& logits, const Tensor& seeds, const Tensor& positions, const Tensor& temperature, const Tensor& top_k,
              const Tensor& top_p, const Tensor& min_p) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, T, T, T, T, T)>("caracal::sample");
  return op.call(logits, seeds, positions, temperature, top_k, top_p, min_p);
}

Tensor combine(const Tensor& y, const Tensor& reply_index, const Tensor& weights, const Tensor& zero, const Tensor& h,
               const Tensor& residual) {
  using T = const Tensor&;
  static const auto op = find<Tensor(T, T, T, T, T, T)>("caracal::combine");
  return op.call(y, reply_index, weights, zero, h, residual);
}

}  // namespace caracal::stack
