// row_checks: each row's CRC-32, and whether all of it is finite.
#include <tuple>

#include "crc32.h"
#include "dense.h"

namespace caracal {

std::tuple<Tensor, Tensor> row_checks(const Tensor& rows) {
  const char* op = "row_checks";
  check(op, "rows", rows, at::kFloat, 2);
  const int64_t count = rows.size(0), width = rows.size(1);
  Tensor checksum = at::empty({count}, rows.options().dtype(at::kLong));
  Tensor finite = at::empty({count}, rows.options().dtype(at::kBool));
  over_rows(count, 2 * width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t* words = ptr<uint32_t>(rows) + row * width;
      uint32_t bad = 0;
      for (int64_t i = 0; i < width; ++i) bad |= (words[i] & 0x7f800000u) == 0x7f800000u;
      ptr<bool>(finite)[row] = !bad;
      ptr<int64_t>(checksum)[row] = crc32(words, static_cast<std::size_t>(width) * sizeof(float));
    }
  });
  return {checksum, finite};
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) { m.impl("row_checks", &row_checks); }

}  // namespace caracal
