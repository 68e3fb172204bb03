// Encryption of one direction of a session: AES-256-GCM, a message for each frame's header and one for each body.
//
// The messages of a direction are numbered from 0, and the number is the nonce: a message that is changed, left out,
// sent again or in another place fails its tag. Both sides count; no number is sent. After so many bytes both go on to
// the next key, which HKDF-Expand (RFC 5869) makes of the secret.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace caracal::wire {

constexpr size_t kSecretBytes = 32, kTagBytes = 16;
// A session's secrets: that of the caller's frames, then that of the worker's. None: it is not encrypted.
constexpr size_t kKeysBytes = 2 * kSecretBytes;
// TLS 1.3 allows 2^24.5 records of 2^14 bytes (RFC 8446, 5.5).
constexpr uint64_t kBytesPerKey = uint64_t{1} << 36;

enum class Way : int { kDecrypt = 0, kEncrypt = 1 };

// Used by one thread at a time.
class Cipher {
 public:
  // `first`: the number of the first message. Without libcrypto it has failed already.
  Cipher(Way way, const char* secret, uint64_t first = 0, uint64_t bytes_per_key = kBytesPerKey);
  ~Cipher();
  Cipher(const Cipher&) = delete;
  Cipher& operator=(const Cipher&) = delete;

  // Begins the next message. Then come data that are authenticated only, if any, and the others, in any pieces.
  void begin();
  void authenticate(const void* data, size_t bytes);
  // `to` may be `from`. What is decrypted must not be used before `verify`.
  void update(const void* from, void* to, size_t bytes);
  // Ends a message that was encrypted: writes its tag.
  void finish(void* tag);
  // Ends a message that was decrypted; whether it is the one that was sent.
  bool verify(const void* tag);
  // Whether nothing it has written may be sent: the library has failed.
  bool failed() const { return !ok_; }

 private:
  void next_key();
  bool expand(const char* label, unsigned char* into);

  const Way way_;
  const uint64_t bytes_per_key_;
  void* context_ = nullptr;
  unsigned char secret_[kSecretBytes];
  uint64_t number_, bytes_ = 0;  // of the next message; since the key began
  bool ok_;
};

// The ciphers of a session, from its keys.
inline std::unique_ptr<Cipher> callers_cipher(const std::string& keys, Way way, uint64_t first = 0) {
  return keys.size() == kKeysBytes ? std::make_unique<Cipher>(way, keys.data(), first) : nullptr;
}
inline std::unique_ptr<Cipher> workers_cipher(const std::string& keys, Way way, uint64_t first = 0) {
  return keys.size() == kKeysBytes ? std::make_unique<Cipher>(way, keys.data() + kSecretBytes, first) : nullptr;
}

}  // namespace caracal::wire
