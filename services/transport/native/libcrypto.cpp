#include "libcrypto.h"

#include <dlfcn.h>

namespace caracal::wire {
namespace {

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool load(Libcrypto& found) {
  void* library = dlopen(kLibcrypto, RTLD_NOW | RTLD_LOCAL);
  return library && find(library, "EVP_CIPHER_CTX_new", found.EVP_CIPHER_CTX_new) &&
         find(library, "EVP_CIPHER_CTX_free", found.EVP_CIPHER_CTX_free) &&
         find(library, "EVP_CIPHER_CTX_ctrl", found.EVP_CIPHER_CTX_ctrl) &&
         find(library, "EVP_aes_256_gcm", found.EVP_aes_256_gcm) &&
         find(library, "EVP_CipherInit_ex", found.EVP_CipherInit_ex) &&
         find(library, "EVP_CipherUpdate", found.EVP_CipherUpdate) &&
         find(library, "EVP_CipherFinal_ex", found.EVP_CipherFinal_ex) && find(library, "EVP_sha256", found.EVP_sha256) &&
         find(library, "HMAC", found.HMAC) && find(library, "OPENSSL_cleanse", found.OPENSSL_cleanse);
}

}  // namespace

const Libcrypto* libcrypto() {
  static Libcrypto functions;
  static const bool found = load(functions);
  return found ? &functions : nullptr;
}

}  // namespace caracal::wire
