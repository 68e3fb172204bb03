// What a message of the native fan-out costs its caller, next to a bare epoll loop that moves the same bytes.
//
// `fanout SESSIONS STEPS tcp|unix spin|sleep plain|encrypted` prints one line of JSON; the bare loop is always plain. A forked process on the other core serves all
// sessions: it answers each call with a frame of the same size. In one run, steps of the two callers alternate in
// rounds. A call and its reply carry BODY bytes each, besides their headers and ids.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "client.h"
#include "greeting.h"

using namespace caracal::wire;

namespace {

constexpr size_t kBody = 12288, kIds = 8;
constexpr uint32_t kHidden = kBody / 2, kBFloat16 = 2;
constexpr int kRounds = 10;

void check(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

void pin(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
}

double cpu_s() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Peer {
  int fd;
  size_t have = 0;
  std::vector<char> frame = std::vector<char>(sizeof(Header) + kIds + kBody);
  std::unique_ptr<Cipher> incoming, outgoing;  // of the server, in sessions that are encrypted
};

// A header and a body, each with its tag if there is a cipher, into plain bytes or out of them.
void decrypt(Cipher& cipher, const char* wire, char* plain, size_t body) {
  for (const size_t bytes : {sizeof(Header), body}) {
    cipher.begin();
    cipher.update(wire, plain, bytes);
    check(cipher.verify(wire + bytes), "a frame was changed");
    wire += bytes + kTagBytes;
    plain += bytes;
  }
}

void encrypt(Cipher& cipher, const char* plain, char* wire, size_t body) {
  for (const size_t bytes : {sizeof(Header), body}) {
    cipher.begin();
    cipher.update(plain, wire, bytes);
    cipher.finish(wire + bytes);
    wire += bytes + kTagBytes;
    plain += bytes;
  }
}

void watch(int epoll, int fd, uint64_t index) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = index;
  check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

// Answers calls for ever. Both callers talk to this same loop.
[[noreturn]] void serve(const std::vector<int>& sockets, bool spin, const std::string& keys) {
  const int epoll = epoll_create1(0);
  std::vector<Peer> peers;
  const size_t tags = keys.empty() ? 0 : 2 * kTagBytes;
  for (int fd : sockets) {
    peers.push_back({fd, 0, std::vector<char>(sizeof(Header) + kIds + kBody + tags),
                     callers_cipher(keys, Way::kDecrypt, kAfterGreeting), workers_cipher(keys, Way::kEncrypt, kAfterGreeting)});
  }
  for (size_t i = 0; i < peers.size(); ++i) watch(epoll, peers[i].fd, i);
  std::vector<char> reply(sizeof(Header) + kBody), plain(sizeof(Header) + kIds + kBody), wire(reply.size() + tags);
  Header header;
  header.kind = Kind::kReply;
  header.rows = header.assignments = 1;
  header.hidden = kHidden;
  header.dtype = kBFloat16;
  header.body_bytes = kBody;
  header.body_crc = crc32c(0, reply.data() + sizeof header, kBody);
  epoll_event events[64];
  for (;;) {
    const int ready = epoll_wait(epoll, events, 64, spin ? 0 : -1);
    for (int i = 0; i < ready; ++i) {
      Peer& peer = peers[events[i].data.u64];
      const ssize_t got = recv(peer.fd, peer.frame.data() + peer.have, peer.frame.size() - peer.have, MSG_DONTWAIT);
      if (got == 0) _exit(0);
      if (got < 0) continue;
      peer.have += static_cast<size_t>(got);
      if (peer.have < peer.frame.size()) continue;
      peer.have = 0;
      Header call;
      if (tags) decrypt(*peer.incoming, peer.frame.data(), plain.data(), kIds + kBody);
      std::memcpy(&call, tags ? plain.data() : peer.frame.data(), sizeof call);
      header.session = call.session;
      header.call = call.call;
      seal(header);
      std::memcpy(reply.data(), &header, sizeof header);
      if (tags) encrypt(*peer.outgoing, reply.data(), wire.data(), kBody);
      const std::vector<char>& out = tags ? wire : reply;
      for (size_t sent = 0; sent < out.size();) {
        const ssize_t more = send(peer.fd, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
        if (more > 0) sent += static_cast<size_t>(more);
      }
    }
  }
}

std::pair<int, int> connected(bool tcp) {
  int ends[2];
  if (!tcp) {
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    return {ends[0], ends[1]};
  }
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  check(bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listener, 1) == 0, "listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  ends[0] = socket(AF_INET, SOCK_STREAM, 0);
  check(connect(ends[0], reinterpret_cast<sockaddr*>(&address), length) == 0, "connect");
  ends[1] = accept(listener, nullptr, nullptr);
  close(listener);
  const int on = 1;
  for (int end : ends) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {ends[0], ends[1]};
}

// The bare loop: whole frames out of as much memory as the rows take, whole frames into as much, nothing else.
struct Bare {
  int epoll = epoll_create1(0);
  bool spin;
  std::vector<Peer> peers;
  std::vector<std::vector<char>> calls;

  Bare(const std::vector<int>& sockets, bool spin_) : spin(spin_) {
    for (int fd : sockets) peers.push_back({fd, 0, std::vector<char>(sizeof(Header) + kBody), nullptr, nullptr});
    for (size_t i = 0; i < peers.size(); ++i) watch(epoll, peers[i].fd, i);
    calls.assign(peers.size(), std::vector<char>(sizeof(Header) + kIds + kBody));
  }

  void step() {
    for (size_t i = 0; i < peers.size(); ++i) {
      Peer& peer = peers[i];
      const std::vector<char>& call = calls[i];
      peer.have = 0;
      for (size_t sent = 0; sent < call.size();) {
        const ssize_t more = send(peer.fd, call.data() + sent, call.size() - sent, MSG_NOSIGNAL);
        if (more > 0) sent += static_cast<size_t>(more);
      }
    }
    epoll_event events[64];
    for (size_t left = peers.size(); left;) {
      const int ready = epoll_wait(epoll, events, 64, spin ? 0 : -1);
      for (int i = 0; i < ready; ++i) {
        Peer& peer = peers[events[i].data.u64];
        const ssize_t got = recv(peer.fd, peer.frame.data() + peer.have, peer.frame.size() - peer.have, MSG_DONTWAIT);
        if (got <= 0) continue;
        peer.have += static_cast<size_t>(got);
        left -= peer.have == peer.frame.size();
      }
    }
  }
};

// The fan-out: rows of a tensor out, one block of replies in, checksums of both, and a look for NaNs.
struct Fanout {
  Client client;
  std::vector<int64_t> serial;
  std::vector<int32_t> row, ones, zeros;
  std::vector<char> x, y;

  Fanout(const std::vector<int>& sockets, bool spin, const std::string& keys)
      : client({.heartbeat_s = 1, .silent_beats = 10, .spin_s = spin ? 1.0 : 0.0, .reply_dtype = kBFloat16}),
        ones(sockets.size(), 1), zeros(sockets.size(), 0), x(sockets.size() * kBody), y(sockets.size() * kBody) {
    for (size_t i = 0; i < sockets.size(); ++i) {
      serial.push_back(client.add(sockets[i], i + 1, keys));
      row.push_back(static_cast<int32_t>(i));
    }
  }

  void step() {
    Scatter wanted;
    wanted.hidden = kHidden;
    wanted.dtype = kBFloat16;
    wanted.planes = {{x.data(), kBody}};
    wanted.workers = serial.size();
    wanted.serial = serial.data();
    wanted.row = row.data();
    wanted.row_count = wanted.count = ones.data();
    wanted.row_of = wanted.expert = zeros.data();
    wanted.reply = y.data();
    wanted.reply_row_bytes = kBody;
    Exchange* exchange = client.scatter(wanted);
    client.wait(*exchange, 30, false);
    for (size_t i = 0; i < exchange->used; ++i) check(exchange->calls[i].outcome == Outcome::kAnswered, "a call failed");
    client.release(exchange);
  }
};

struct Timed {
  std::vector<double> steps_us, cpu_us;  // of each step; per message, of each round

  template <class Caller>
  void round(Caller& caller, int steps, size_t sessions) {
    const double before = cpu_s();
    for (int i = 0; i < steps; ++i) {
      const double began = now_s();
      caller.step();
      steps_us.push_back(1e6 * (now_s() - began));
    }
    cpu_us.push_back(1e6 * (cpu_s() - before) / steps / static_cast<double>(sessions));
  }

  static double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
    return values[values.size() / 2];
  }
};

struct Served {
  std::vector<int> sockets;
  pid_t pid;
};

Served start_server(size_t sessions, bool tcp, bool spin, const std::string& keys) {
  std::vector<int> mine, theirs;
  for (size_t i = 0; i < sessions; ++i) {
    const auto [here, there] = connected(tcp);
    mine.push_back(here);
    theirs.push_back(there);
  }
  const pid_t pid = fork();
  if (pid == 0) {
    for (int fd : mine) close(fd);
    pin(1 % static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
    serve(theirs, spin, keys);
  }
  for (int fd : theirs) close(fd);
  return {mine, pid};
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 6, "usage: fanout SESSIONS STEPS tcp|unix spin|sleep plain|encrypted");
  const size_t sessions = std::strtoul(argv[1], nullptr, 10);
  const int steps = std::max(kRounds, std::atoi(argv[2]));
  const bool tcp = std::string(argv[3]) == "tcp", spin = std::string(argv[4]) == "spin";
  const std::string keys(std::string(argv[5]) == "encrypted" ? kKeysBytes : 0, 'k');
  const Served for_bare = start_server(sessions, tcp, spin, "");
  Timed bare_timed, fanout_timed;
  Served for_fanout = start_server(sessions, tcp, spin, keys);
  pin(0);
  {
    Bare bare(for_bare.sockets, spin);
    Fanout fanout(for_fanout.sockets, spin, keys);
    for (int i = 0; i < 20; ++i) bare.step(), fanout.step();
    for (int round = 0; round < kRounds; ++round) {
      // Of two servers that poll on one core, the one that nobody asks must not run.
      kill(for_fanout.pid, SIGSTOP);
      kill(for_bare.pid, SIGCONT);
      bare_timed.round(bare, steps / kRounds, sessions);
      kill(for_bare.pid, SIGSTOP);
      kill(for_fanout.pid, SIGCONT);
      fanout_timed.round(fanout, steps / kRounds, sessions);
    }
  }
  for (pid_t pid : {for_bare.pid, for_fanout.pid}) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  std::printf("{\"bare_cpu_us\": %.2f, \"fanout_cpu_us\": %.2f, \"bare_step_us\": %.1f, \"fanout_step_us\": %.1f}\n",
              Timed::median(bare_timed.cpu_us), Timed::median(fanout_timed.cpu_us), Timed::median(bare_timed.steps_us),
              Timed::median(fanout_timed.steps_us));
}
