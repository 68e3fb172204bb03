// The ops of a layer, called through torch's dispatcher: their bodies stay where they are, and so do their bits.
// Shapes and meanings are those of the ops of the same names in caracal_kernels.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace caracal::stack {

using at::Tensor;

struct MlaWeights {
  Tensor norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, w_uk, w_uv, o_proj, cos_sin;
  double norm_eps, lora_eps, q_scale, kv_scale;
};

struct Gate {
  int64_t top_k, num_ffn;
  double scale;
  bool norm_topk;
};

// ids, weights, zero; then row, row_count, row_of, expert, count, reply_index
using Routed = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor mla_project(const Tensor& x, const MlaWeights& w, const Tensor& positions, const Tensor& slot_mapping,
                   const Tensor& cache);
Tensor mla_attention(const Tensor& q, const Tensor& cache, const Tensor& page_table, const Tensor& seq, const Tensor& positions,
                     double scale, int64_t latent, int64_t sink_blocks, int64_t recent_blocks);
Tensor mla_output(const Tensor& o, const MlaWeights& w, const Tensor& residual);
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);
Tensor swiglu(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual);
Routed route_rows(const Tensor& h, const Tensor& classifier, const Tensor& bias, const Gate& gate, const Tensor& positions,
                  int64_t layer, const Tensor& replica_offset, const Tensor& replica_worker, int64_t workers);
Tensor linear(const Tensor& x, const Tensor& weight, at::ScalarType out);
std::tuple<Tensor, Tensor> row_checks(const Tensor& rows);  // checksum, finite
Tensor sample(const Tensor& logits, const Tensor& seeds, const Tensor& positions, const Tensor& temperature, const Tensor& top_k,
              const Tensor& top_p, const Tensor& min_p);
Tensor combine(const Tensor& y, const Tensor& reply_index, const Tensor& weights, const Tensor& zero, const Tensor& h,
               const Tensor& residual);

}  // namespace caracal::stack
