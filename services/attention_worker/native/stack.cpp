#include "stack.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/index_select.h>

#include <algorithm>

namespace caracal::stack {
namespace {

// x + MLA(norm(x)); writes the rows' latents to the cache.
Tensor attend(const Attention& attention, const Tensor& x, const Step& step, const Tensor& cache) {
  const Tensor q = mla_project(x, attention.weights, step.positions, step.slot_mapping, cache);
  const Tensor o = mla_attention(q, cache, step.page_table, step.seq, step.positions, attention.scale, attention.latent,
                                 attention.sink_blocks, attention.recent_blocks);
  return mla_output(o, attention.weights, x);
}

}  // namespace

Outcome Stack::run(size_t first, size_t until, std::optional<Tensor> given, const Step& step,
                   const std::shared_ptr<const Routes>& routes) const {
  const size_t layers = layers_.size();
  TORCH_CHECK(step.caches.size() == 2 * layers, "stack: ", step.caches.size(), " caches for ", layers, " layers");
  TORCH_CHECK(routes->worker.size() == layers, "stack: a table of ", routes->worker.size(), " layers for ", layers);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // as in inference mode: nothing is recorded elsewhere either
  TORCH_CHECK(given || word_, "stack: neither rows nor a table to look them up in");
  Tensor x = given ? *given : at::index_select(*word_, 0, step.ids);
  int64_t messages = 0;
  for (size_t index = first; index < std::min(until, layers); ++index) {
    if (routes->scatterer->generation() != routes->generation) return {index, x, messages, nullptr, std::nullopt};
    const Layer& layer = layers_[index];
    x = attend(layer.attention[0], x, step, step.caches[2 * index]);
    const Tensor h = rms_norm(x, layer.post_norm[0], layer.norm_eps);
    const auto moe = std::make_shared<InFlight>(routes, step.number, index, h, layer.classifier, layer.bias, step.positions);
    messages += moe->messages;
    x = swiglu(h, layer.mlp[0].gate_up, layer.mlp[0].down, x);  // the shortcut: hides the experts' round trip
    x = attend(layer.attention[1], x, step, step.caches[2 * index + 1]);
    x = swiglu(rms_norm(x, layer.post_norm[1], layer.norm_eps), layer.mlp[1].gate_up, layer.mlp[1].down, x);
    if (!moe->wait()) return {index + 1, x, messages, moe, std::nullopt};
    x = moe->finish(x);
  }
  if (until < layers) return {until, x, messages, nullptr, std::nullopt};
  const Tensor wanted = rms_norm(at::index_select(x, 0, step.sample_rows), head_.norm, head_.norm_eps);
  return {layers, x, messages, nullptr, linear(wanted, head_.matrix, at::kFloat)};
}

}  // namespace caracal::stack
