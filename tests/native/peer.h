// What the core's checks and its fuzzer share: a worker that computes something simple, and sessions with it.
//
// Legend: D hidden.
#pragma once
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client.h"
#include "greeting.h"
#include "server.h"

namespace caracal::wire::testing {

constexpr uint32_t kHidden = 24, kLayers = 3, kExperts = 8;

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

inline void require(bool holds, const char* what) {
  if (!holds) fail(what);
}

inline Expected expected() {
  return {kLayers, kExperts, kHidden, 1, 1, "torch.float32", {kHidden * sizeof(float)}, 64, 64 * kExperts};
}

// Row times (expert + 1), plus the layer.
inline LaunchResult compute(const Launch& launch) {
  const float* rows = reinterpret_cast<const float*>(launch.payload);
  float* out = reinterpret_cast<float*>(launch.out);
  for (size_t a = 0; a < launch.assignments; ++a) {
    for (uint32_t d = 0; d < kHidden; ++d) {
      out[a * kHidden + d] = rows[static_cast<size_t>(launch.row[a]) * kHidden + d] * static_cast<float>(launch.expert[a] + 1) +
                             static_cast<float>(launch.layer);
    }
  }
  return {};
}

inline std::pair<int, int> connected_sockets() {
  int ends[2];
  require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
  for (int end : ends) fcntl(end, F_SETFL, O_NONBLOCK);
  return {ends[0], ends[1]};
}

inline void blocking(int fd, bool on) { fcntl(fd, F_SETFL, on ? 0 : O_NONBLOCK); }

inline std::string framed(Header header, const std::string& body) {
  header.body_bytes = body.size();
  header.body_crc = crc32c(0, body.data(), body.size());
  seal(header);
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
}

inline std::string random_bytes(size_t bytes, std::mt19937_64& random) {
  std::string made(bytes, '\0');
  for (char& byte : made) byte = static_cast<char>(random());
  return made;
}

// What the bytes of a frame are on the wire of a session with keys, or without a cipher: the header and the rest as
// messages of their own.
inline std::string encrypted(Cipher* cipher, std::string frame) {
  if (!cipher) return frame;
  std::string wire;
  for (size_t at = 0; at < frame.size();) {
    const size_t bytes = std::min(at ? frame.size() - at : sizeof(Header), frame.size() - at);
    std::string message(bytes + kTagBytes, '\0');
    cipher->begin();
    cipher->update(frame.data() + at, message.data(), bytes);
    cipher->finish(message.data() + bytes);
    wire += message;
    at += bytes;
  }
  return wire;
}

// A socket whose session the server has welcomed.
inline int open_session(Server& server, uint64_t session, std::mt19937_64& random, const std::string& keys = {}) {
  const std::string token = random_bytes(kTokenBytes, random);
  require(server.expect(token, session, 60, keys), "a place for a session");
  const auto [mine, theirs] = connected_sockets();
  server.adopt(theirs);
  const std::string greeting = hello(session, token, keys);
  blocking(mine, true);
  require(write(mine, greeting.data(), greeting.size()) == static_cast<ssize_t>(greeting.size()), "the greeting was sent");
  std::string welcome(welcome_bytes(keys), '\0');
  require(recv(mine, welcome.data(), welcome.size(), MSG_WAITALL) == static_cast<ssize_t>(welcome.size()), "it was answered");
  require(!welcome_fault(welcome, session, keys), "it is a welcome");
  blocking(mine, false);
  return mine;
}

// One layer for one worker: 3 rows, 4 assignments.
struct Layer {
  std::vector<float> x = std::vector<float>(3 * kHidden), y = std::vector<float>(4 * kHidden);
  std::vector<int32_t> row{0, 1, 2}, row_count{3}, row_of{0, 2, 1, 0}, expert{0, 0, 3, 7}, count{4};
  int64_t serial = 0;

  Scatter scatter(uint32_t layer) {
    Scatter wanted;
    wanted.layer = layer;
    wanted.hidden = kHidden;
    wanted.dtype = 1;
    wanted.planes = {{reinterpret_cast<const char*>(x.data()), kHidden * sizeof(float)}};
    wanted.workers = 1;
    wanted.serial = &serial;
    wanted.row = row.data();
    wanted.row_count = row_count.data();
    wanted.row_of = row_of.data();
    wanted.expert = expert.data();
    wanted.count = count.data();
    wanted.reply = reinterpret_cast<char*>(y.data());
    wanted.reply_row_bytes = kHidden * sizeof(float);
    return wanted;
  }

  void fill(std::mt19937_64& random) {
    for (float& value : x) value = static_cast<float>(random() % 1000);
  }

  bool right(uint32_t layer) const {
    for (size_t a = 0; a < 4; ++a) {
      for (uint32_t d = 0; d < kHidden; ++d) {
        const float wanted = x[static_cast<size_t>(row_of[a]) * kHidden + d] * static_cast<float>(expert[a] + 1) + static_cast<float>(layer);
        if (y[a * kHidden + d] != wanted) return false;
      }
    }
    return true;
  }
};

}  // namespace caracal::wire::testing
