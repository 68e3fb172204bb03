#include "cipher.h"

#include <algorithm>
#include <cstring>

#include "libcrypto.h"

namespace caracal::wire {
namespace {

constexpr int kGetTag = 0x10, kSetTag = 0x11;  // EVP_CTRL_AEAD_GET_TAG and _SET_TAG of openssl/evp.h
constexpr size_t kNonceBytes = 12, kMaxPiece = size_t{1} << 30;

const unsigned char* bytes_at(const void* at) { return static_cast<const unsigned char*>(at); }

}  // namespace

Cipher::Cipher(Way way, const char* secret, uint64_t first, uint64_t bytes_per_key)
    : way_(way), bytes_per_key_(bytes_per_key), number_(first), ok_(libcrypto() != nullptr) {
  std::memcpy(secret_, secret, kSecretBytes);
  if (!ok_) return;
  context_ = libcrypto()->EVP_CIPHER_CTX_new();
  ok_ = context_ && libcrypto()->EVP_CipherInit_ex(context_, libcrypto()->EVP_aes_256_gcm(), nullptr, nullptr, nullptr,
                                                   static_cast<int>(way_)) == 1;
  next_key();
}

Cipher::~Cipher() {
  if (!libcrypto()) return;
  libcrypto()->OPENSSL_cleanse(secret_, kSecretBytes);
  libcrypto()->EVP_CIPHER_CTX_free(context_);
}

// HKDF-Expand of one block: HMAC-SHA256 over the label and a 1.
bool Cipher::expand(const char* label, unsigned char* into) {
  unsigned char text[32];
  const size_t bytes = std::strlen(label);
  std::memcpy(text, label, bytes);
  text[bytes] = 1;
  return libcrypto()->HMAC(libcrypto()->EVP_sha256(), secret_, kSecretBytes, text, bytes + 1, into, nullptr) != nullptr;
}

void Cipher::next_key() {
  unsigned char key[kSecretBytes], secret[kSecretBytes];
  ok_ = ok_ && expand("caracal key", key) && expand("caracal next", secret) &&
        libcrypto()->EVP_CipherInit_ex(context_, nullptr, nullptr, key, nullptr, -1) == 1;
  if (!ok_) return;
  std::memcpy(secret_, secret, kSecretBytes);
  libcrypto()->OPENSSL_cleanse(key, kSecretBytes);
  libcrypto()->OPENSSL_cleanse(secret, kSecretBytes);
  bytes_ = 0;
}

void Cipher::begin() {
  if (bytes_ >= bytes_per_key_) next_key();
  unsigned char nonce[kNonceBytes] = {};
  std::memcpy(nonce, &number_, sizeof number_);
  ++number_;
  ok_ = ok_ && libcrypto()->EVP_CipherInit_ex(context_, nullptr, nullptr, nullptr, nonce, -1) == 1;
}

void Cipher::authenticate(const void* data, size_t bytes) {
  int written = 0;
  ok_ = ok_ && libcrypto()->EVP_CipherUpdate(context_, nullptr, &written, bytes_at(data), static_cast<int>(bytes)) == 1;
}

void Cipher::update(const void* from, void* to, size_t bytes) {
  bytes_ += bytes;
  for (size_t at = 0; ok_ && at < bytes;) {
    const int piece = static_cast<int>(std::min(bytes - at, kMaxPiece));
    int written = 0;
    ok_ = libcrypto()->EVP_CipherUpdate(context_, static_cast<unsigned char*>(to) + at, &written, bytes_at(from) + at, piece) == 1 &&
          written == piece;
    at += static_cast<size_t>(piece);
  }
}

void Cipher::finish(void* tag) {
  int written = 0;
  unsigned char none[kTagBytes];
  ok_ = ok_ && libcrypto()->EVP_CipherFinal_ex(context_, none, &written) == 1 &&
        libcrypto()->EVP_CIPHER_CTX_ctrl(context_, kGetTag, kTagBytes, tag) == 1;
}

bool Cipher::verify(const void* tag) {
  int written = 0;
  unsigned char none[kTagBytes];
  ok_ = ok_ && libcrypto()->EVP_CIPHER_CTX_ctrl(context_, kSetTag, kTagBytes, const_cast<void*>(tag)) == 1 &&
        libcrypto()->EVP_CipherFinal_ex(context_, none, &written) == 1;
  return ok_;
}

}  // namespace caracal::wire
