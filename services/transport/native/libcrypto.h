// The functions of OpenSSL's libcrypto that encryption needs, looked for when they are first used.
//
// Not linked with: Caracal is compiled where the headers are not, and runs where the library is, since Python's ssl is
// one of its users.
#pragma once
#include <cstddef>

namespace caracal::wire {

constexpr char kLibcrypto[] = "libcrypto.so.3";

// Named as there, where EVP_CIPHER_CTX, EVP_CIPHER, EVP_MD and ENGINE are opaque.
struct Libcrypto {
  void* (*EVP_CIPHER_CTX_new)();
  void (*EVP_CIPHER_CTX_free)(void*);
  int (*EVP_CIPHER_CTX_ctrl)(void*, int, int, void*);
  const void* (*EVP_aes_256_gcm)();
  int (*EVP_CipherInit_ex)(void*, const void*, void*, const unsigned char*, const unsigned char*, int);
  int (*EVP_CipherUpdate)(void*, unsigned char*, int*, const unsigned char*, int);
  int (*EVP_CipherFinal_ex)(void*, unsigned char*, int*);
  const void* (*EVP_sha256)();
  unsigned char* (*HMAC)(const void*, const void*, int, const unsigned char*, size_t, unsigned char*, unsigned int*);
  void (*OPENSSL_cleanse)(void*, size_t);
};

// nullptr where there is none.
const Libcrypto* libcrypto();

}  // namespace caracal::wire
