#include "stack.h"

#include <ATen/core/LegacyTypeDispatch.h>

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

Outcome Stack::run(size_t first, Tensor x, const Step& step, const std::shared_ptr<const Routes>& routes) const {
  TORCH_CHECK(step.caches.size() == 2 * layers_.size(), "stack: ", step.caches.size(), " caches for ", layers_.size(), " layers");
  TORCH_CHECK(routes->worker.size() == layers_.size(), "stack: a table of ", routes->worker.size(), " layers for ", layers_.size());
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // what inference mode leaves out; elsewhere nothing is to be recorded either
  Outcome outcome;
  for (size_t index = first; index < layers_.size(); ++index) {
    if (routes->scatterer->generation() != routes->generation) return {index, x, outcome.messages, nullptr};
    const Layer& layer = layers_[index];
    x = attend(layer.attention[0], x, step, step.caches[2 * index]);
    const Tensor h = rms_norm(x, layer.post_norm[0], layer.norm_eps);
    const auto moe = std::make_shared<InFlight>(routes, step.number, index, h, layer.classifier, layer.bias, step.positions);
    outcome.messages += moe->messages;
    x = swiglu(h, layer.mlp[0].gate_up, layer.mlp[0].down, x);  // the shortcut: hides the experts' round trip
    x = attend(layer.attention[1], x, step, step.caches[2 * index + 1]);
    x = swiglu(rms_norm(x, layer.post_norm[1], layer.norm_eps), layer.mlp[1].gate_up, layer.mlp[1].down, x);
    if (!moe->wait()) return {index + 1, x, outcome.messages, moe};
    x = moe->finish(x);
  }
  return {layers_.size(), x, outcome.messages, nullptr};
}

}  // namespace caracal::stack
