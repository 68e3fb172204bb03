#include "isa.h"

namespace caracal {
namespace {

bool wide() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

bool narrow() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool use_wide = wide();
const bool use_vbmi = __builtin_cpu_supports("avx512vbmi");

}  // namespace

std::string best_isa() { return wide() ? "avx512bf16" : narrow() ? "avx2" : "reference"; }

bool use_isa(const std::string& name) {
  if (name == "avx512bf16" && wide()) return use_wide = true;
  if (name == "avx2" && narrow()) return !(use_wide = false);
  return false;
}

template <>
const Kernels<bf16>& active<bf16>() {
  if (!use_wide) return avx2_bf16();
  return use_vbmi ? avx512vbmi_bf16() : avx512_bf16();
}

template <>
const Kernels<float>& active<float>() { return use_wide ? avx512_f32() : avx2_f32(); }

}  // namespace caracal
