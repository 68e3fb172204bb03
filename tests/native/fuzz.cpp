// Sends mutated frames to a worker and to a caller: nothing may crash or leak, and a session beside them must go on.
// `fuzz FRAMES SEED`; half of the frames go to each side, half of each in sessions that are encrypted.
#include "peer.h"

using namespace caracal::wire;
using namespace caracal::wire::testing;

namespace {

using Random = std::mt19937_64;

const uint64_t kEdges[] = {0, 1, 2, 7, 8, 63, 64, 65, 88, 511, 512, 4096, 4097, 1u << 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                           uint64_t{1} << 30, uint64_t{1} << 40, ~uint64_t{0}};

uint64_t edge(Random& random) { return random() % 3 ? kEdges[random() % std::size(kEdges)] : random(); }

void mutate_field(Header& header, Random& random) {
  switch (random() % 16) {
    case 0: header.magic = static_cast<uint32_t>(edge(random)); break;
    case 1: header.version = static_cast<uint16_t>(edge(random)); break;
    case 2: header.kind = static_cast<Kind>(random() % 9); break;
    case 3: header.session = edge(random); break;
    case 4: header.call += random() % 3 ? random() % 4 - 1 : edge(random); break;
    case 5: header.epoch = edge(random); break;
    case 6: header.layer = static_cast<uint32_t>(edge(random)); break;
    case 7: header.deadline_ms = static_cast<uint32_t>(edge(random)); break;
    case 8: header.rows = static_cast<uint32_t>(edge(random)); break;
    case 9: header.assignments = static_cast<uint32_t>(edge(random)); break;
    case 10: header.hidden = static_cast<uint32_t>(edge(random)); break;
    case 11: header.dtype = static_cast<uint32_t>(edge(random)); break;
    case 12: header.status = static_cast<Status>(random() % 8); break;
    case 13: header.body_bytes = edge(random); break;
    case 14: header.reserved = static_cast<uint32_t>(edge(random)); break;
    default: header.body_crc ^= static_cast<uint32_t>(edge(random)); break;
  }
}

// A frame with some of it wrong; most have right checksums, so that what is behind them is reached.
std::string mutated(const Header& good, const std::string& good_body, Random& random) {
  Header header = good;
  std::string body = good_body;
  const bool resize = random() % 4 == 0;
  if (resize) body.resize(random() % 2 ? random() % (body.size() + 1) : body.size() + random() % 300, 'x');
  for (uint64_t flips = random() % 4; flips && !body.empty(); --flips) {
    body[random() % body.size()] = static_cast<char>(random() % 3 ? random() % 9 : random());
  }
  header.body_bytes = body.size();
  header.body_crc = crc32c(0, body.data(), body.size());
  for (uint64_t fields = random() % 3; fields; --fields) mutate_field(header, random);
  seal(header);
  std::string frame = std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
  if (random() % 8 == 0) frame[random() % frame.size()] ^= static_cast<char>(1 << random() % 8);
  if (random() % 8 == 0) frame.resize(random() % frame.size());
  return frame;
}

Header call_header(uint64_t session, uint64_t number) {
  Header header;
  header.kind = Kind::kCall;
  header.session = session;
  header.call = number;
  header.rows = 3;
  header.assignments = 4;
  header.hidden = kHidden;
  header.dtype = 1;
  return header;
}

std::string call_body(Random& random) {
  Layer layer;
  layer.fill(random);
  std::string body(reinterpret_cast<const char*>(layer.row_of.data()), 16);
  body.append(reinterpret_cast<const char*>(layer.expert.data()), 16);
  return body.append(reinterpret_cast<const char*>(layer.x.data()), layer.x.size() * sizeof(float));
}

// Whether the peer is still there; what it has sent is thrown away.
bool alive(int fd) {
  char bin[4096];
  for (;;) {
    const ssize_t got = recv(fd, bin, sizeof bin, MSG_DONTWAIT);
    if (got > 0) continue;
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
}

struct Attacked {
  int fd = -1;
  uint64_t session = 0, calls = 0;
  std::unique_ptr<Cipher> cipher;  // of what is sent
};

// What is sent of a frame in a session with keys: now and then with a bit changed, or twice, or not at all.
std::string tampered(std::string wire, Random& random) {
  if (wire.empty()) return wire;
  switch (random() % 24) {
    case 0: wire[random() % wire.size()] ^= static_cast<char>(1 << random() % 8); break;
    case 1: wire += wire; break;
    case 2: wire.clear(); break;
    default: break;
  }
  return wire;
}

// Sends some or all of the bytes, in pieces. What is left out makes the next frame start in the middle of this one.
bool send_in_pieces(int fd, const std::string& frame, Random& random) {
  size_t at = 0;
  while (at < frame.size()) {
    const size_t piece = random() % 4 ? frame.size() - at : 1 + random() % (frame.size() - at);
    if (send(fd, frame.data() + at, piece, MSG_NOSIGNAL) != static_cast<ssize_t>(piece)) return false;
    at += piece;
  }
  return true;
}

void attack_worker(uint64_t frames, Random& random, const std::string& keys) {
  Server server({.expected = expected(), .max_sessions = 64, .greeting_s = 0.05}, compute);
  Client client({.heartbeat_s = 0.05, .silent_beats = 200, .spin_s = 0, .reply_dtype = 1});
  Layer layer;
  layer.serial = client.add(open_session(server, 7, random, keys), 7, keys);
  std::vector<Attacked> attacked(16);
  uint64_t sessions = 100, well = 0;
  for (uint64_t sent = 0; sent < frames;) {
    Attacked& one = attacked[sent % attacked.size()];
    if (one.fd >= 0 && !alive(one.fd)) close(std::exchange(one.fd, -1));
    if (one.fd < 0) {
      while (server.sessions() > 40) usleep(50);  // those that were closed here are soon closed there
      const int fd = open_session(server, ++sessions, random, keys);
      one = {fd, sessions, 0, callers_cipher(keys, Way::kEncrypt, kAfterGreeting)};
    }
    const Header header = call_header(one.session, ++one.calls);
    const std::string wire = encrypted(one.cipher.get(), mutated(header, call_body(random), random));
    sent += send_in_pieces(one.fd, keys.empty() ? wire : tampered(wire, random), random);
    if (sent % 50 != 0) continue;
    layer.fill(random);
    Exchange* exchange = client.scatter(layer.scatter(sent % kLayers));
    client.wait(*exchange, 20, false);
    require(exchange->calls[0].outcome == Outcome::kAnswered && layer.right(sent % kLayers), "the session beside goes on");
    client.release(exchange);
    ++well;
  }
  for (Attacked& one : attacked) close(one.fd);
  const ServerCounters counters = server.counters();
  std::printf("to the worker%s: %llu frames, %llu sessions, %llu calls answered, %llu of them rejected; %llu exchanges beside\n",
              keys.empty() ? "" : ", encrypted", static_cast<unsigned long long>(frames), static_cast<unsigned long long>(counters.opened),
              static_cast<unsigned long long>(counters.answered), static_cast<unsigned long long>(counters.rejected),
              static_cast<unsigned long long>(well));
  require(counters.rejected > frames / 100 && counters.answered > counters.rejected, "frames get behind the checksums");
}

void attack_caller(uint64_t frames, Random& random, const std::string& keys) {
  Server server({.expected = expected()}, compute);
  Client client({.heartbeat_s = 1, .silent_beats = 1, .spin_s = 0, .reply_dtype = 1});
  Layer beside, layer;
  beside.serial = client.add(open_session(server, 7, random, keys), 7, keys);
  std::unique_ptr<Cipher> cipher;
  uint64_t session = 100, answered = 0, refused = 0;
  int fd = -1;
  Header good;
  good.kind = Kind::kReply;
  good.assignments = good.rows = 4;
  good.hidden = kHidden;
  good.dtype = 1;
  for (uint64_t sent = 0; sent < frames; ++sent) {
    if (fd < 0 || !client.why_over(layer.serial).empty()) {
      if (fd >= 0) close(fd);
      const auto [mine, theirs] = connected_sockets();
      fd = mine;
      layer.serial = client.add(theirs, ++session, keys);
      cipher = workers_cipher(keys, Way::kEncrypt, kAfterGreeting);
      good.session = session;
      good.call = 0;
    }
    Exchange* exchange = client.scatter(layer.scatter(1));
    ++good.call;
    const std::string body(random() % 8 ? layer.y.size() * sizeof(float) : random() % 5000, 'y');
    const std::string wire = encrypted(cipher.get(), mutated(good, body, random));
    send_in_pieces(fd, keys.empty() ? wire : tampered(wire, random), random);
    client.wait(*exchange, 0, false);  // what was sent is there already
    answered += exchange->calls[0].outcome == Outcome::kAnswered;
    refused += exchange->calls[0].outcome != Outcome::kAnswered;
    client.release(exchange);
    alive(fd);  // takes the calls away
    if (sent % 50 != 0) continue;
    beside.fill(random);
    exchange = client.scatter(beside.scatter(2));
    client.wait(*exchange, 20, false);
    require(exchange->calls[0].outcome == Outcome::kAnswered && beside.right(2), "the session beside goes on");
    client.release(exchange);
  }
  close(fd);
  std::printf("to the caller%s: %llu frames, %llu sessions, %llu replies taken, %llu calls failed\n",
              keys.empty() ? "" : ", encrypted", static_cast<unsigned long long>(frames), static_cast<unsigned long long>(session - 100),
              static_cast<unsigned long long>(answered), static_cast<unsigned long long>(refused));
  require(answered > frames / 100 && refused > frames / 10, "frames get behind the checksums");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) fail("usage: fuzz FRAMES SEED");
  const uint64_t frames = std::strtoull(argv[1], nullptr, 10);
  Random random(std::strtoull(argv[2], nullptr, 10));
  const std::string keys = random_bytes(kKeysBytes, random);
  for (const std::string& one : {std::string(), keys}) {
    attack_worker(frames / 4, random, one);
    attack_caller(frames / 4, random, one);
  }
  return 0;
}
