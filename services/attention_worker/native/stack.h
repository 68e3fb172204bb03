// The layers of a model, run one after another without Python: what services/attention_worker/model/model.py does for
// one layer, in its order.
//
// Legend: T tokens, B of them whose logits are wanted, V vocabulary, D hidden, S rows of the page table, X pages of a row, P pages, I positions of a page.
#pragma once
#include "in_flight.h"

namespace caracal::stack {

struct Attention {
  MlaWeights weights;
  double scale;
  int64_t latent, sink_blocks, recent_blocks;
};

struct Mlp {
  Tensor gate_up, down;
};

struct Layer {
  std::array<Attention, 2> attention;
  std::array<Tensor, 2> post_norm;
  double norm_eps;
  std::array<Mlp, 2> mlp;
  Tensor classifier, bias;
};

// What makes logits of rows.
struct Head {
  Tensor norm;
  double norm_eps;
  Tensor matrix;  // [V, D]
};

// A step's tokens, and where their latents are.
struct Step {
  uint64_t number;
  Tensor ids, positions, seq, slot_mapping;  // [T]
  Tensor page_table;                    // [S, X]
  Tensor sample_rows;                   // [B]
  std::vector<Tensor> caches;           // of each sublayer [P, I, latent and rope]
};

struct Outcome {
  size_t reached;                         // the layer to go on with
  Tensor x;                               // [T, D] before it; where a layer was interrupted, that layer's residual
  int64_t messages = 0;                   // sent
  std::shared_ptr<InFlight> interrupted;  // the layer before `reached`, whose replies are not all well
  std::optional<Tensor> logits;           // [B, V], when all layers have run
};

class Stack {
 public:
  // `word`, if given, is the table that tokens are looked up in.
  Stack(std::vector<Layer> layers, std::optional<Tensor> word, Head head)
      : layers_(std::move(layers)), word_(std::move(word)), head_(std::move(head)) {}
  // Runs the layers from `first` on and before `until`, then the head if that was the last one; without `x`, on the rows
  // of the step's ids. It ends early before a layer when the routes hold no longer, and in a layer when its replies have
  // not all come, or are not finite.
  Outcome run(size_t first, size_t until, std::optional<Tensor> x, const Step& step, const std::shared_ptr<const Routes>& routes) const;

 private:
  const std::vector<Layer> layers_;
  const std::optional<Tensor> word_;
  const Head head_;
};

}  // namespace caracal::stack
