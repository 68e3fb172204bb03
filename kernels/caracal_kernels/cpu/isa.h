// The kernels in use, chosen once per process: `active<T>()`.
#pragma once
#include <string>

#include "kernels.h"

namespace caracal {

std::string best_isa();                 // avx512bf16 | avx2 | reference
bool use_isa(const std::string& name);  // false when this CPU cannot run it

template <typename T>
const Kernels<T>& active();

}  // namespace caracal
