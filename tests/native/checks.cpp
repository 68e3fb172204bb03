// Checks of the data plane's core that need no Python: run plainly by the tests, and under sanitizers.
#include <poll.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "encryption_checks.h"
#include "expert_counts.h"
#include "handshakes.h"
#include "peer.h"

using namespace caracal::wire;
using namespace caracal::wire::testing;

namespace {

using Random = std::mt19937_64;

void checksum_is_the_table_s(Random& random) {
  require(crc32c(0, "123456789", 9) == 0xE3069283, "CRC32C of the standard's example");
  std::string data(20000, '\0');
  for (char& byte : data) byte = static_cast<char>(random());
  for (const size_t bytes : {0, 1, 7, 8, 127, 255, 256, 257, 383, 384, 385, 511, 512, 513, 771, 3071, 3072, 3073, 12288, 19990}) {
    const char* at = data.data() + random() % 8;
    require(crc32c(5, at, bytes) == crc32c_table(5, at, bytes), "the checksum by instruction is the table's");
    const size_t cut = bytes ? random() % bytes : 0;
    require(crc32c(crc32c(0, at, cut), at + cut, bytes - cut) == crc32c(0, at, bytes), "it goes on after a cut");
  }
}

// Several calls of a layer with random rows, merged, against each call alone.
void merged_calls_get_their_own_rows(Random& random) {
  const Expected sizes = expected();
  for (int round = 0; round < 50; ++round) {
    std::vector<Job> jobs(2 + random() % 4);
    std::vector<Job*> all;
    for (Job& job : jobs) {
      job.header = {};
      job.header.layer = 1;
      std::vector<int32_t> row, expert;
      job.header.rows = static_cast<uint32_t>(1 + random() % 5);
      for (int32_t e = 0; e < static_cast<int32_t>(kExperts); ++e) {
        for (int32_t r = 0; r < static_cast<int32_t>(job.header.rows); ++r) {
          if (random() % 3 == 0 || (row.empty() && e + 1 == static_cast<int32_t>(kExperts))) row.push_back(r), expert.push_back(e);
        }
      }
      job.header.assignments = static_cast<uint32_t>(row.size());
      const size_t bytes = 8 * row.size() + job.header.rows * sizes.row_bytes();
      job.body = Buffer(bytes);
      std::memcpy(job.body.at(), row.data(), 4 * row.size());
      std::memcpy(job.body.at() + 4 * row.size(), expert.data(), 4 * row.size());
      float* x = reinterpret_cast<float*>(job.body.at() + 8 * row.size());
      for (uint32_t i = 0; i < job.header.rows * kHidden; ++i) x[i] = static_cast<float>(random() % 100);
      all.push_back(&job);
    }
    Merger together(sizes), alone(sizes);
    const Launch& launch = together.merge(all, now_s());
    for (size_t a = 1; a < launch.assignments; ++a) {
      require(launch.expert[a] > launch.expert[a - 1] || (launch.expert[a] == launch.expert[a - 1] && launch.row[a] > launch.row[a - 1]),
              "merged assignments ascend by (expert, row)");
    }
    compute(launch);
    for (size_t i = 0; i < jobs.size(); ++i) {
      compute(alone.merge({all[i]}, now_s()));
      Outgoing mine, right;
      together.output_of(i, mine);
      alone.output_of(0, right);
      std::vector<char> got, wanted;
      mine.copy_rest(got);
      right.copy_rest(wanted);
      require(got == wanted, "a call's rows do not depend on the calls beside it");
    }
  }
}

// A thread that counts launches beside one that takes: nothing is lost, nothing is counted twice.
void counts_of_experts_are_taken_once(Random& random) {
  constexpr size_t kLaunches = 20000;
  ExpertCounts counts(kLayers, kExperts);
  std::vector<int64_t> added(counts.size()), taken(counts.size()), part(counts.size());
  std::atomic<bool> done{false};
  std::thread launches([&] {
    for (size_t launch = 0; launch < kLaunches; ++launch) {
      const uint32_t layer = static_cast<uint32_t>(random() % kLayers);
      std::vector<int32_t> expert, count;
      for (int32_t e = 0; e < static_cast<int32_t>(kExperts); ++e) {
        const int32_t n = static_cast<int32_t>(random() % 4);
        if (!n) continue;
        count.push_back(n);
        expert.insert(expert.end(), static_cast<size_t>(n), e);
        added[size_t{layer} * kExperts + static_cast<size_t>(e)] += n;
      }
      counts.add(layer, expert.data(), count);
    }
    done = true;
  });
  for (bool last = false; !last;) {
    last = done;
    counts.take(part.data());
    for (size_t i = 0; i < part.size(); ++i) taken[i] += part[i];
  }
  launches.join();
  require(taken == added, "each assignment is taken once, by its layer and expert");
  counts.take(part.data());
  require(part == std::vector<int64_t>(counts.size()), "and is gone then");
}

// One byte at a time, through a socket.
void frames_may_come_in_any_pieces(Random& random, const std::string& keys) {
  Server server({.expected = expected()}, compute);
  const int fd = open_session(server, 5, random, keys);
  Layer layer;
  layer.fill(random);
  Header header;
  header.kind = Kind::kCall;
  header.session = 5;
  header.call = 1;
  header.layer = 1;
  header.rows = 3;
  header.assignments = 4;
  header.hidden = kHidden;
  header.dtype = 1;
  std::string body(reinterpret_cast<const char*>(layer.row_of.data()), 16);
  body.append(reinterpret_cast<const char*>(layer.expert.data()), 16);
  body.append(reinterpret_cast<const char*>(layer.x.data()), layer.x.size() * 4);
  blocking(fd, true);
  const auto mine = callers_cipher(keys, Way::kEncrypt, kAfterGreeting), theirs = workers_cipher(keys, Way::kDecrypt, kAfterGreeting);
  for (const char byte : encrypted(mine.get(), framed(header, body))) require(write(fd, &byte, 1) == 1, "a byte was sent");
  const auto received = [&](void* into, size_t bytes) {
    std::string message(bytes + (keys.empty() ? 0 : kTagBytes), '\0');
    require(recv(fd, message.data(), message.size(), MSG_WAITALL) == static_cast<ssize_t>(message.size()), "a reply came");
    std::memcpy(into, message.data(), bytes);
    if (keys.empty()) return;
    theirs->begin();
    theirs->update(message.data(), into, bytes);
    require(theirs->verify(message.data() + bytes), "it is the worker's");
  };
  Header reply;
  received(&reply, sizeof reply);
  received(layer.y.data(), layer.y.size() * 4);
  require(!fault_of(reply) && reply.status == Status::kOk && layer.right(1), "its rows are right");
  close(fd);
}

// A reply that comes after its call was given up must not be written anywhere.
void late_replies_touch_nothing(Random& random, const std::string& keys) {
  std::atomic<bool> slow{true};
  Server server({.expected = expected()}, [&](const Launch& launch) {
    if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return compute(launch);
  });
  Client client({.heartbeat_s = 1, .silent_beats = 10, .spin_s = 0, .reply_dtype = 1});
  const int64_t serial = client.add(open_session(server, 5, random, keys), 5, keys);
  {
    Layer gone;  // its memory is given back while the reply is on its way
    gone.serial = serial;
    Exchange* exchange = client.scatter(gone.scatter(0));
    client.wait(*exchange, 0.001, false);
    require(exchange->calls[0].outcome == Outcome::kLate, "the call was given up");
    client.release(exchange);
  }
  slow = false;
  Layer next;
  next.serial = serial;
  next.fill(random);
  Exchange* exchange = client.scatter(next.scatter(2));
  client.wait(*exchange, 20, false);
  require(exchange->calls[0].outcome == Outcome::kAnswered && next.right(2), "the session goes on behind a late reply");
  client.release(exchange);
}

// Silence adds up over waits each of which is shorter than a heartbeat, and over calls sent meanwhile.
void silence_adds_up(Random& random) {
  Client client({.heartbeat_s = 0.02, .silent_beats = 3, .spin_s = 0, .reply_dtype = 1});
  const auto [mine, silent] = connected_sockets();
  Layer layer;
  layer.serial = client.add(mine, 5);
  layer.fill(random);
  int waits = 0;
  for (Outcome outcome = Outcome::kLate; outcome == Outcome::kLate; ++waits) {
    require(waits < 1000, "a silent peer is found out by short waits");
    Exchange* exchange = client.scatter(layer.scatter(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(16));  // the engine computes
    client.wait(*exchange, 0.006, false);
    outcome = exchange->calls[0].outcome;
    client.release(exchange);
  }
  require(waits > 2, "one question is not enough");
  require(client.why_over(layer.serial) == "it has given no sign of life", "why it is over");
  close(silent);
}

// A worker that computes for longer than silence may last answers for itself meanwhile.
void who_computes_is_not_silent(Random& random, const std::string& keys) {
  Server server({.expected = expected()}, [](const Launch& launch) {
    std::this_thread::sleep_for(std::chrono::milliseconds(900));
    return compute(launch);
  });
  Client client({.heartbeat_s = 0.1, .silent_beats = 3, .spin_s = 0, .reply_dtype = 1});
  Layer layer;
  layer.serial = client.add(open_session(server, 5, random, keys), 5, keys);
  layer.fill(random);
  Exchange* exchange = client.scatter(layer.scatter(1));
  client.wait(*exchange, 20, false);
  require(exchange->calls[0].outcome == Outcome::kAnswered && layer.right(1), "its answer is waited for");
  client.release(exchange);
}

// Threads that open, close and count sessions beside one that scatters.
void sessions_come_and_go_beside_exchanges(Random& random, const std::string& keys) {
  Server server({.expected = expected(), .max_sessions = 64}, compute);
  Client client({.heartbeat_s = 0.01, .silent_beats = 100, .spin_s = 1e-5, .reply_dtype = 1});
  Layer layer;
  layer.serial = client.add(open_session(server, 5, random, keys), 5, keys);
  std::atomic<bool> done{false};
  std::thread other([&] {
    Random own(3);
    for (uint64_t session = 100; !done; ++session) {
      const int64_t serial = client.add(open_session(server, session, own, keys), session, keys);
      require(client.sessions() >= 1 && server.sessions() >= 1, "sessions are counted");
      server.set_epoch(0);
      client.end(serial, "it was closed");
      while (server.sessions() > 32) std::this_thread::yield();
    }
  });
  for (int round = 0; round < 2000; ++round) {
    layer.fill(random);
    Exchange* exchange = client.scatter(layer.scatter(1));
    client.wait(*exchange, 20, false);
    require(exchange->calls[0].outcome == Outcome::kAnswered && layer.right(1), "an exchange goes on beside them");
    client.release(exchange);
  }
  done = true;
  other.join();
}

// gRPC's lines as they are, cut short anywhere, and with any bytes in them.
void reasons_of_handshakes_are_read(Random& random) {
  const std::string head = "I1130 10:46:51.561949   23711 ssl_transport_security.cc:2563] Handshake failed with error ";
  const std::string error = "SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:";
  require(handshake_reason(head + error + "HTTP_REQUEST: Invalid context\n") == "http request", "a reason");
  require(handshake_reason(head + error + "CERTIFICATE_VERIFY_FAILED: certificate has expired\n") == "certificate has expired",
          "why a certificate is not believed");
  require(handshake_reason(head + "SSL_ERROR_SYSCALL\n") == "other", "no reason");
  require(handshake_reason("Handshake failed: another line\n").empty(), "another line");
  const std::string whole = head + error + "CERTIFICATE_VERIFY_FAILED: certificate has expired\n";
  for (size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    const std::string reason = handshake_reason(whole.substr(0, bytes) + random_bytes(random() % 200, random));
    require(reason.empty() == (bytes < head.size()) || bytes < head.size(), "every line of a handshake has a reason");
    require(reason.size() <= 80 && reason.find_first_of("\n\"\\") == std::string::npos, "which a label can have");
  }
}

}  // namespace

int main() {
  Random random(11);
  reasons_of_handshakes_are_read(random);
  checksum_is_the_table_s(random);
  merged_calls_get_their_own_rows(random);
  counts_of_experts_are_taken_once(random);
  messages_are_read_only_as_they_were_sent(random);
  large_frames_go_through_small_sockets(random);
  outsiders_cannot_use_a_token(random);
  silence_adds_up(random);
  for (const std::string& keys : {std::string(), random_bytes(kKeysBytes, random)}) {
    frames_may_come_in_any_pieces(random, keys);
    late_replies_touch_nothing(random, keys);
    who_computes_is_not_silent(random, keys);
    sessions_come_and_go_beside_exchanges(random, keys);
  }
  std::puts("all checks hold");
  return 0;
}
