// Checks of the data plane's core that need no Python: run plainly by the tests, and under sanitizers.
#include <poll.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "expert_counts.h"
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
void frames_may_come_in_any_pieces(Random& random) {
  Server server({.expected = expected()}, compute);
  const int fd = open_session(server, 5, random);
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
  for (const char byte : framed(header, body)) require(write(fd, &byte, 1) == 1, "a byte was sent");
  Header reply;
  require(recv(fd, &reply, sizeof reply, MSG_WAITALL) == sizeof reply && !fault_of(reply), "a reply came");
  require(recv(fd, layer.y.data(), layer.y.size() * 4, MSG_WAITALL) == static_cast<ssize_t>(layer.y.size() * 4), "its rows came");
  require(reply.status == Status::kOk && layer.right(1), "its rows are right");
  close(fd);
}

// A reply that comes after its call was given up must not be written anywhere.
void late_replies_touch_nothing(Random& random) {
  std::atomic<bool> slow{true};
  Server server({.expected = expected()}, [&](const Launch& launch) {
    if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return compute(launch);
  });
  Client client({.heartbeat_s = 1, .silent_beats = 10, .spin_s = 0, .reply_dtype = 1});
  const int64_t serial = client.add(open_session(server, 5, random), 5);
  {
    Layer gone;  // its memory is given back while the reply is on its way
    gone.serial = serial;
    Exchange* exchange = client.scatter(gone.scatter(0));
    client.wait(*exchange, 0.001);
    require(exchange->calls[0].outcome == Outcome::kLate, "the call was given up");
    client.release(exchange);
  }
  slow = false;
  Layer next;
  next.serial = serial;
  next.fill(random);
  Exchange* exchange = client.scatter(next.scatter(2));
  client.wait(*exchange, 20);
  require(exchange->calls[0].outcome == Outcome::kAnswered && next.right(2), "the session goes on behind a late reply");
  client.release(exchange);
}

// Threads that open, close and count sessions beside one that scatters.
void sessions_come_and_go_beside_exchanges(Random& random) {
  Server server({.expected = expected(), .max_sessions = 64}, compute);
  Client client({.heartbeat_s = 0.01, .silent_beats = 100, .spin_s = 1e-5, .reply_dtype = 1});
  Layer layer;
  layer.serial = client.add(open_session(server, 5, random), 5);
  std::atomic<bool> done{false};
  std::thread other([&] {
    Random own(3);
    for (uint64_t session = 100; !done; ++session) {
      const int64_t serial = client.add(open_session(server, session, own), session);
      require(client.sessions() >= 1 && server.sessions() >= 1, "sessions are counted");
      server.set_epoch(0);
      client.end(serial, "it was closed");
      while (server.sessions() > 32) std::this_thread::yield();
    }
  });
  for (int round = 0; round < 2000; ++round) {
    layer.fill(random);
    Exchange* exchange = client.scatter(layer.scatter(1));
    client.wait(*exchange, 20);
    require(exchange->calls[0].outcome == Outcome::kAnswered && layer.right(1), "an exchange goes on beside them");
    client.release(exchange);
  }
  done = true;
  other.join();
}

}  // namespace

int main() {
  Random random(11);
  checksum_is_the_table_s(random);
  merged_calls_get_their_own_rows(random);
  counts_of_experts_are_taken_once(random);
  frames_may_come_in_any_pieces(random);
  late_replies_touch_nothing(random);
  sessions_come_and_go_beside_exchanges(random);
  std::puts("all checks hold");
  return 0;
}
