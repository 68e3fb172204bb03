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

// The block that guesses the token after the next one: services/attention_worker/model/draft.py.
struct Draft {
  Tensor word, token_norm, hidden_norm, join;
  Attention attention;
  Tensor post_norm;
  Mlp mlp;
  Tensor norm;
  double norm_eps;
};

// A step's tokens, and where their latents are.
struct Step {
  uint64_t number;
  Tensor ids, positions, seq, slot_mapping;  // [T]
  Tensor page_table;                    // [S, X]
  Tensor sample_rows;                   // [B]
  std::vector<Tensor> caches;           // of each sublayer [P, I, latent and rope], last that of the draft
};

struct Outcome {
  size_t reached;                         // the layer to go on with
  Tensor x;                               // [T, D] before it; where a layer was interrupted, that layer's residual
  int64_t messages = 0;                   // sent
  std::shared_ptr<InFlight> interrupted;  // the layer before `reached`, whose replies are not all well
  std::optional<Tensor> logits;           // [B, V], when all layers have run
  std::optional<Tensor> hidden;           // [T, D], then: what the head reads of all tokens, if there is a draft
  std::vector<std::shared_ptr<InFlight>> kept;  // layers whose calls are to be computed again elsewhere
};

class Stack {
 public:
  // `word`, if given, is the table that tokens are looked up in.
  Stack(std::vector<Layer> layers, std::optional<Tensor> word, Head head, std::optional<Draft> draft)
      : layers_(std::move(layers)), word_(std::move(word)), head_(std::move(head)), draft_(std::move(draft)) {}
  // Runs the layers from `first` on and before `until`, then the head if that was the last one; without `x`, on the rows
  // of the step's ids. It ends early before a layer when the routes hold no longer, and in a layer when its replies have
  // not all come, or are not finite.
  Outcome run(size_t first, size_t until, std::optional<Tensor> x, const Step& step, const std::shared_ptr<const Routes>& routes) const;
  // Logits [B, V] of the token after each of the ids that are sample rows, and what they were made from [B, D].
  // `hidden` [T, D]: what the head read at the step's positions. Writes every row's latent to the last of the caches.
  std::pair<Tensor, Tensor> draft(const Tensor& hidden, const Step& step) const;

 private:
  const std::vector<Layer> layers_;
  const std::optional<Tensor> word_;
  const Head head_;
  const std::optional<Draft> draft_;
};

}  // namespace caracal::stack
