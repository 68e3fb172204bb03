#include "handshakes.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <mutex>

namespace caracal::wire {
namespace {

constexpr char kFailed[] = "Handshake failed with error ", kRoutines[] = "OPENSSL_internal:", kUntrusted[] = "CERTIFICATE_VERIFY_FAILED";
constexpr size_t kReasons = 64, kLongest = 80;

struct Counts {
  std::mutex mutex;
  std::map<std::string, uint64_t> by_reason;
};

// Never destroyed: gRPC's threads may outlive everything else.
Counts& counts() {
  static Counts* made = new Counts;
  return *made;
}

ssize_t write_all(const char* data, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    const ssize_t written = write(STDERR_FILENO, data + at, bytes - at);
    if (written <= 0) return static_cast<ssize_t>(bytes);  // as good as it gets: nobody looks at this
    at += static_cast<size_t>(written);
  }
  return static_cast<ssize_t>(bytes);
}

// stdio calls it with what one call of fwrite, of whichever thread, has written.
ssize_t take(void*, const char* data, size_t bytes) {
  std::string reason = handshake_reason(std::string(data, bytes));
  if (reason.empty()) return write_all(data, bytes);
  Counts& known = counts();
  std::lock_guard lock(known.mutex);
  if (!known.by_reason.count(reason) && known.by_reason.size() >= kReasons) reason = "other";
  ++known.by_reason[reason];
  return static_cast<ssize_t>(bytes);
}

}  // namespace

std::string handshake_reason(const std::string& line) {
  const size_t failed = line.find(kFailed);
  if (failed == std::string::npos) return "";
  const size_t routines = line.find(kRoutines, failed);
  if (routines == std::string::npos) return "other";
  const size_t begin = routines + sizeof kRoutines - 1, colon = line.find(": ", begin);
  std::string reason = line.substr(begin, std::min(colon, line.size()) - begin);
  if (reason == kUntrusted && colon != std::string::npos) reason = line.substr(colon + 2);
  std::string words;
  for (const char each : reason.substr(0, kLongest)) {
    if (each == '\n') break;
    const auto byte = static_cast<unsigned char>(each);
    words += std::isalnum(byte) || each == '-' || each == '(' || each == ')' ? static_cast<char>(std::tolower(byte)) : ' ';
  }
  return words.empty() ? "other" : words;
}

void count_failed_handshakes() {
  static std::once_flag once;
  std::call_once(once, [] {
    cookie_io_functions_t functions{};
    functions.write = take;
    FILE* file = fopencookie(nullptr, "w", functions);
    if (!file) return;
    setvbuf(file, nullptr, _IONBF, 0);
    fflush(stderr);
    stderr = file;  // which glibc lets a program do
  });
}

std::map<std::string, uint64_t> failed_handshakes() {
  Counts& known = counts();
  std::lock_guard lock(known.mutex);
  return known.by_reason;
}

}  // namespace caracal::wire
