// How a session is opened: the caller's HELLO shows the token, and its keys if it has any, the worker's WELCOME answers.
#pragma once
#include <string>

#include "cipher.h"
#include "frame.h"

namespace caracal::wire {

constexpr uint64_t kAfterGreeting = 1;  // messages of each direction that the greeting has used

std::string hello(uint64_t session, const std::string& token, const std::string& keys);
// Whether HELLO's tag (nullptr: it has none) is right; `incoming`: the caller's cipher, nullptr if no keys were given.
bool proven(Cipher* incoming, const char* token, const char* tag);
size_t welcome_bytes(const std::string& keys);
// Why the bytes are not the welcome to this session; nullptr when they are.
const char* welcome_fault(std::string bytes, uint64_t session, const std::string& keys);

}  // namespace caracal::wire
