// A step's tokens, drawn from its logits in one call.
//
// Legend: B rows, V vocabulary.
#pragma once
#include <vector>

#include "ops.h"

namespace caracal::stack {

// How each row is drawn from; of all [B].
struct Sampling {
  std::vector<int64_t> seeds, positions;
  std::vector<float> temperature;
  std::vector<int32_t> top_k;
  std::vector<float> top_p, min_p;
};

struct Drawn {
  std::vector<int64_t> ids;        // of a row that is not finite: of one of zeros
  std::vector<int64_t> checksums;  // CRC-32 of the row
  std::vector<uint8_t> finite;
};

// From fp32 logits [B, V]: what row_checks and sample give, as numbers.
Drawn draw(const Tensor& logits, Sampling& sampling);

}  // namespace caracal::stack
