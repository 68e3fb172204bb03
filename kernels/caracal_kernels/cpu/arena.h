// Memory for packed weights, in huge pages: a core that streams weights from pages of 4 KiB waits for its page tables as
// long as for memory.
#pragma once
#include <cstddef>
#include <memory>

namespace caracal {

// Memory of that size that lives as long as the pointer; zeroed or not. Raises std::bad_alloc.
std::shared_ptr<void> arena_memory(std::size_t bytes);

}  // namespace caracal
