#include "stack.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>

#include <algorithm>

namespace caracal::stack {
namespace {

// x + MLA of queries that were projected from x.
Tensor attend(const Attention& attention, const Tensor& x, const Tensor& q, const Tensor& seq, const Tensor& positions,
              const Step& step, const Tensor& cache) {
  const Tensor o = mla_attention(q, cache, step.page_table, seq, positions, attention.scale, attention.latent,
                                 attention.sink_blocks, attention.recent_blocks);
  return mla_output(o, attention.weights, x);
}

// x + MLA(norm(x)); writes the rows' latents to the cache.
Tensor attend(const Attention& attention, const Tensor& x, const Step& step, const Tensor& cache) {
  const Tensor q = mla_project(x, attention.weights, step.positions, step.slot_mapping, cache);
  return attend(attention, x, q, step.seq, step.positions, step, cache);
}

}  // namespace

Outcome Stack::run(size_t first, size_t until, std::optional<Tensor> given, const Step& step,
                   const std::shared_ptr<const Routes>& routes) const {
  const size_t layers = layers_.size();
  TORCH_CHECK(step.caches.size() == 2 * layers + draft_.has_value(), "stack: ", step.caches.size(), " caches for ", layers,
              " layers", draft_ ? " and a draft" : "");
  TORCH_CHECK(routes->worker.size() == layers, "stack: a table of ", routes->worker.size(), " layers for ", layers);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // as in inference mode: nothing is recorded elsewhere either
  TORCH_CHECK(given || word_, "stack: neither rows nor a table to look them up in");
  Tensor x = given ? *given : at::index_select(*word_, 0, step.ids);
  int64_t messages = 0;
  std::vector<std::shared_ptr<InFlight>> kept;
  for (size_t index = first; index < std::min(until, layers); ++index) {
    if (routes->scatterer->generation() != routes->generation) return {index, x, messages, nullptr, std::nullopt, std::nullopt, kept};
    const Layer& layer = layers_[index];
    x = attend(layer.attention[0], x, step, step.caches[2 * index]);
    const Tensor h = rms_norm(x, layer.post_norm[0], layer.norm_eps);
    const auto moe = std::make_shared<InFlight>(routes, step.number, index, h, layer.classifier, layer.bias, step.positions);
    messages += moe->messages;
    x = swiglu(h, layer.mlp[0].gate_up, layer.mlp[0].down, x);  // the shortcut: hides the experts' round trip
    x = attend(layer.attention[1], x, step, step.caches[2 * index + 1]);
    x = swiglu(rms_norm(x, layer.post_norm[1], layer.norm_eps), layer.mlp[1].gate_up, layer.mlp[1].down, x);
    if (!moe->wait()) return {index + 1, x, messages, moe, std::nullopt, std::nullopt, kept};
    x = moe->finish(x);
    if (moe->messages && routes->keeps(step.number, index)) {
      moe->conclude();
      kept.push_back(moe);
    }
  }
  if (until < layers) return {until, x, messages, nullptr, std::nullopt, std::nullopt, kept};
  std::optional<Tensor> hidden;
  if (draft_) hidden = rms_norm(x, head_.norm, head_.norm_eps);
  const Tensor wanted = hidden ? at::index_select(*hidden, 0, step.sample_rows)
                               : rms_norm(at::index_select(x, 0, step.sample_rows), head_.norm, head_.norm_eps);
  return {layers, x, messages, nullptr, linear(wanted, head_.matrix, at::kFloat), hidden, kept};
}

std::pair<Tensor, Tensor> Stack::draft(const Tensor& hidden, const Step& step) const {
  TORCH_CHECK(draft_, "stack: it has no draft");
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Draft& d = *draft_;
  const Tensor token = rms_norm(at::index_select(d.word, 0, step.ids), d.token_norm, d.norm_eps);
  const Tensor both = at::cat({token, rms_norm(hidden, d.hidden_norm, d.norm_eps)}, 1);
  const Tensor u = linear(both, d.join, hidden.scalar_type()), &cache = step.caches.back(), &rows = step.sample_rows;
  const Tensor q = mla_project(u, d.attention.weights, step.positions, step.slot_mapping, cache);
  Tensor x = at::index_select(u, 0, rows);
  if (rows.numel()) {
    x = attend(d.attention, x, at::index_select(q, 0, rows), at::index_select(step.seq, 0, rows),
               at::index_select(step.positions, 0, rows), step, cache);
    x = swiglu(rms_norm(x, d.post_norm, d.norm_eps), d.mlp.gate_up, d.mlp.down, x);
    x = rms_norm(x, d.norm, d.norm_eps);
  }
  return {linear(x, head_.matrix, at::kFloat), x};
}

}  // namespace caracal::stack
