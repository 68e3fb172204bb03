#include "avx2.h"

#include "body.h"

namespace caracal {

const Kernels<bf16>& avx2_bf16() {
  static constexpr Kernels<bf16> kernels = table<bf16>();
  return kernels;
}

const Kernels<float>& avx2_f32() {
  static constexpr Kernels<float> kernels = table<float>();
  return kernels;
}

}  // namespace caracal
