#include "greeting.h"

namespace caracal::wire {

std::string hello(uint64_t session, const std::string& token, const std::string& keys) {
  const auto cipher = callers_cipher(keys, Way::kEncrypt);
  std::string tag(cipher ? kTagBytes : 0, '\0');
  if (cipher) {
    cipher->begin();
    cipher->authenticate(token.data(), token.size());
    cipher->finish(tag.data());
  }
  Header header;
  header.kind = Kind::kHello;
  header.session = session;
  header.body_bytes = token.size() + tag.size();
  header.body_crc = crc32c(0, token.data(), token.size());
  seal(header);
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + token + tag;
}

bool proven(Cipher* incoming, const char* token, const char* tag) {
  if (!incoming || !tag) return !incoming && !tag;
  incoming->begin();
  incoming->authenticate(token, kTokenBytes);
  return incoming->verify(tag);
}

size_t welcome_bytes(const std::string& keys) { return sizeof(Header) + (keys.empty() ? 0 : kTagBytes); }

const char* welcome_fault(std::string bytes, uint64_t session, const std::string& keys) {
  if (bytes.size() != welcome_bytes(keys)) return "the greeting was not answered";
  if (const auto cipher = workers_cipher(keys, Way::kDecrypt)) {
    cipher->begin();
    cipher->update(bytes.data(), bytes.data(), sizeof(Header));
    if (!cipher->verify(bytes.data() + sizeof(Header))) return "the welcome fails its authentication";
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (const char* fault = fault_of(header)) return fault;
  if (header.kind != Kind::kWelcome || header.session != session || header.body_bytes) return "it is no welcome";
  return nullptr;
}

}  // namespace caracal::wire
