// Checks of encrypted sessions, from single messages to greetings.
#pragma once
#include "peer.h"

namespace caracal::wire::testing {

using Random = std::mt19937_64;

// Messages of all sizes, in pieces, over several keys; whatever is not the next one as it was sent is refused.
inline void messages_are_read_only_as_they_were_sent(Random& random) {
  const std::string secret = random_bytes(kSecretBytes, random);
  constexpr uint64_t kPerKey = 5000;
  const auto message = [&](Cipher& cipher, size_t bytes, std::string& plain) {
    plain = random_bytes(bytes, random);
    std::string wire(bytes + kTagBytes, '\0');
    cipher.begin();
    for (size_t at = 0; at < bytes;) {
      const size_t piece = 1 + random() % (bytes - at);
      cipher.update(plain.data() + at, wire.data() + at, piece);
      at += piece;
    }
    cipher.finish(wire.data() + bytes);
    return wire;
  };
  const auto read = [](Cipher& cipher, std::string wire, std::string& plain) {
    const size_t bytes = wire.size() - kTagBytes;
    cipher.begin();
    cipher.update(wire.data(), wire.data(), bytes);
    plain = wire.substr(0, bytes);
    return cipher.verify(wire.data() + bytes);
  };
  Cipher sends(Way::kEncrypt, secret.data(), 0, kPerKey), reads(Way::kDecrypt, secret.data(), 0, kPerKey);
  std::string plain, got, last;
  for (int i = 0; i < 200; ++i) {
    last = message(sends, random() % 400, plain);
    require(read(reads, last, got) && got == plain, "a message is read as it was sent");
  }
  require(!read(reads, last, got), "a copy is refused");
  require(reads.failed() && !read(reads, message(sends, 9, plain), got), "and nothing is read after it");
  for (int kind = 0; kind < 5; ++kind) {
    Cipher from(Way::kEncrypt, secret.data()), to(Way::kDecrypt, secret.data(), kind == 0 ? 1 : 0);
    std::string first = message(from, 33, plain);
    if (kind == 1) first = message(from, 33, plain);                 // one was left out
    if (kind == 2) first[random() % first.size()] ^= 1 << random() % 8;
    if (kind == 3) first[33 + random() % kTagBytes] ^= 1;
    require(read(to, first, got) == (kind == 4), "a message that is changed, or in another place, is refused");
  }
  std::string other = secret;
  other[7] ^= 1;
  Cipher stranger(Way::kEncrypt, other.data()), reader(Way::kDecrypt, secret.data());
  require(!read(reader, message(stranger, 64, plain), got), "another key's message is refused");
}

// Takes what a reader gives; a body goes nowhere, or where `guess` has said it would.
struct Taker final : FrameOwner {
  std::vector<char> body;
  bool discards = false;
  size_t guesses = 0, frames = 0;

  bool begin(const Header& header, char*& at, const char*&) override {
    at = discards || !header.body_bytes ? nullptr : body.data();
    return header.body_bytes <= body.size();
  }
  bool complete(const Header&, const char*&) override { return ++frames, true; }
  Region guess() override { return {guesses ? body.data() : nullptr, guesses}; }
};

// Bodies of several chunks out of many pieces, while the peer reads little at a time, in every way a body can be taken.
inline void large_frames_go_through_small_sockets(Random& random) {
  const std::string keys = random_bytes(kKeysBytes, random);
  for (int round = 0; round < 24; ++round) {
    const auto [mine, theirs] = connected_sockets();
    const int size = 4096;
    setsockopt(mine, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    Sender sender;
    FrameReader reader;
    sender.encrypt_with(callers_cipher(keys, Way::kEncrypt));
    reader.decrypt_with(callers_cipher(keys, Way::kDecrypt));
    const std::string plain = random_bytes(round % 3 ? random() % 300000 : random() % 200, random);
    Header header;
    header.body_bytes = plain.size();
    seal(header);
    Taker taker;
    taker.body.resize(plain.size() + 1);
    taker.discards = round % 4 == 1;
    taker.guesses = round % 2 ? 0 : round % 8 ? plain.size() : plain.size() / 2;
    Outgoing frame;
    frame.add(&header, sizeof header);
    for (size_t at = 0; at < plain.size();) {
      const size_t piece = std::min(plain.size() - at, 1 + random() % 9000);
      frame.add(plain.data() + at, piece);
      at += piece;
    }
    std::vector<char> rest;
    size_t rest_sent = 0;
    while (!taker.frames) {
      if (!rest.empty()) {
        const ssize_t sent = send(mine, rest.data() + rest_sent, rest.size() - rest_sent, MSG_DONTWAIT);
        rest_sent += sent > 0 ? static_cast<size_t>(sent) : 0;
      } else if (sender.unsent(frame)) {
        require(sender.send_some(mine, frame), "a frame is sent");
        if (round % 5 == 4) require(sender.copy_rest(frame, rest), "or kept, to be sent later");
      }
      require(reader.read(theirs, taker) != Read::kEnded, "and read");
    }
    require(taker.discards || std::equal(plain.begin(), plain.end(), taker.body.begin()), "as it was sent");
    close(mine);
    close(theirs);
  }
}

// Whoever has seen the token, but not the keys, is closed, and the token is as good as before; its bearer is let in once.
inline void outsiders_cannot_use_a_token(Random& random) {
  Server server({.expected = expected()}, compute);
  const std::string token = random_bytes(kTokenBytes, random), keys = random_bytes(kKeysBytes, random);
  require(server.expect(token, 9, 60, keys), "a place for a session");
  const auto welcomed = [&](const std::string& greeting) {
    const auto [mine, theirs] = connected_sockets();
    server.adopt(theirs);
    blocking(mine, true);
    require(write(mine, greeting.data(), greeting.size()) == static_cast<ssize_t>(greeting.size()), "a greeting was sent");
    char answer[sizeof(Header) + kTagBytes];
    const bool any = recv(mine, answer, sizeof answer, MSG_WAITALL) == sizeof answer;
    close(mine);
    return any;
  };
  require(!welcomed(hello(9, token, "")), "a greeting without the keys is not answered");
  require(!welcomed(hello(9, token, random_bytes(kKeysBytes, random))), "nor one with others");
  require(welcomed(hello(9, token, keys)), "the bearer is let in");
  require(!welcomed(hello(9, token, keys)), "once");
  require(server.expect(token, 10, 60) && !welcomed(hello(10, token, keys)), "keys are not taken where none were given");
}

}  // namespace caracal::wire::testing
