// Counts TLS handshakes that gRPC says have failed: it says so in a line on C's stderr for each, and in no other way.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace caracal::wire {

// From now on those lines are counted by their reason instead of written. Everything else that is written to C's stderr
// is written to file descriptor 2 at once, as before. Called again, it does nothing.
void count_failed_handshakes();
// How many have failed, by reason in OpenSSL's words.
std::map<std::string, uint64_t> failed_handshakes();
// The reason in one of gRPC's lines; empty when it is another line.
std::string handshake_reason(const std::string& line);

}  // namespace caracal::wire
