// What this machine can do at most: bytes read per second, and products of bf16 matrices per second.
//
// `roofline THREADS MIB ROUNDS` prints one line of JSON: medians of interleaved rounds, with 1 and with THREADS threads.
// A thread reads its share of MIB mebibytes, in plain and in huge pages; a matrix product's operands stay in its caches.
#include <sched.h>
#include <sys/mman.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

using Work = std::function<void(int)>;

void pin(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
}

// Seconds from the first thread's beginning to the last one's end; they begin together.
double seconds(int threads, const Work& work) {
  using Clock = std::chrono::steady_clock;
  std::barrier ready(threads);
  std::vector<Clock::time_point> began(threads), ended(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i)
    running.emplace_back([&, i] {
      pin(i);
      ready.arrive_and_wait();
      began[i] = Clock::now();
      work(i);
      ended[i] = Clock::now();
    });
  for (auto& each : running) each.join();
  const auto first = *std::min_element(began.begin(), began.end());
  return std::chrono::duration<double>(*std::max_element(ended.begin(), ended.end()) - first).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

uint64_t* pages(size_t bytes, int advice) {
  void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) {
    std::perror("mmap");
    std::exit(1);
  }
  madvise(found, bytes, advice);
  std::memset(found, 1, bytes);
  return static_cast<uint64_t*>(found);
}

double huge_mib() {
  std::ifstream lines("/proc/self/smaps_rollup");
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("AnonHugePages:")) return std::atof(line.c_str() + 14) / 1024;
  return 0;
}

uint64_t sum(const uint64_t* from, const uint64_t* to) {
  uint64_t part[8] = {};
  for (; from + 8 <= to; from += 8)
    for (int i = 0; i < 8; ++i) part[i] += from[i];
  uint64_t all = 0;
  for (const uint64_t each : part) all += each;
  return all;
}

#ifdef __AVX512BF16__
constexpr const char* kInstructions = "bf16 dot products";
using Vector = __m512;
using Operand = __m512bh;
constexpr int kRows = 6, kColumns = 4, kFlops = 2 * 32;
Vector multiply_add(Vector sum, Operand a, Operand b) { return _mm512_dpbf16_ps(sum, a, b); }
Operand broadcast(const float* value) { return (Operand)_mm512_castps_si512(_mm512_set1_ps(*value)); }
Operand load(const float* values) { return (Operand)_mm512_loadu_si512(values); }
#else
constexpr const char* kInstructions = "fp32 multiply-adds";
using Vector = float __attribute__((vector_size(32)));
using Operand = Vector;
constexpr int kRows = 4, kColumns = 2, kFlops = 2 * 8;
Vector multiply_add(Vector sum, Operand a, Operand b) { return sum + a * b; }
Operand broadcast(const float* value) { return Operand{} + *value; }
Operand load(const float* values) {
  Operand loaded;
  std::memcpy(&loaded, values, sizeof loaded);
  return loaded;
}
#endif
constexpr int kDepth = 128, kTiles = 20000;
constexpr size_t kLanes = sizeof(Vector) / sizeof(float);
volatile float kept;
volatile uint64_t kept_sum;

// One tile of a product over and over: `a` is kDepth x kRows, `b` kDepth x kColumns vectors.
void products(const float* a, const float* b) {
  Vector total{};
  for (int tile = 0; tile < kTiles; ++tile) {
    asm volatile("" ::: "memory");  // or one tile is computed and the rest is left out
    Vector c[kRows][kColumns] = {};
    for (int k = 0; k < kDepth; ++k) {
      Operand columns[kColumns];
      for (int j = 0; j < kColumns; ++j) columns[j] = load(b + (k * kColumns + j) * kLanes);
      for (int i = 0; i < kRows; ++i) {
        const Operand row = broadcast(a + k * kRows + i);
        for (int j = 0; j < kColumns; ++j) c[i][j] = multiply_add(c[i][j], row, columns[j]);
      }
    }
    for (auto& row : c)
      for (auto& cell : row) total += cell;
  }
  kept = total[0];
}

}  // namespace

int main(int count, char** given) {
  if (count != 4) return std::fprintf(stderr, "roofline THREADS MIB ROUNDS\n"), 2;
  const int threads = std::atoi(given[1]), rounds = std::atoi(given[3]);
  const size_t bytes = std::strtoul(given[2], nullptr, 10) << 20, words = bytes / sizeof(uint64_t);
  const uint64_t* plain = pages(bytes, MADV_NOHUGEPAGE);
  const uint64_t* huge = pages(bytes, MADV_HUGEPAGE);
  std::vector<float> a(kDepth * kRows, 0.f), b(kDepth * kColumns * kLanes, 0.f);
  std::vector<double> read[2][2], rate[2];
  for (int round = 0; round < rounds; ++round)
    for (int many = 0; many < 2; ++many) {
      const int used = many ? threads : 1;
      for (int kind = 0; kind < 2; ++kind) {
        const uint64_t* buffer = kind ? huge : plain;
        const Work reading = [&](int i) { kept_sum = sum(buffer + words * i / used, buffer + words * (i + 1) / used); };
        read[many][kind].push_back(static_cast<double>(bytes) / seconds(used, reading));
      }
      const double flops = 1.0 * used * kTiles * kDepth * kRows * kColumns * kFlops;
      rate[many].push_back(flops / seconds(used, [&](int) { products(a.data(), b.data()); }));
    }
  std::printf("{\"instructions\": \"%s\", \"huge_mib\": %.0f", kInstructions, huge_mib());
  for (int many = 0; many < 2; ++many)
    std::printf(", \"%s\": {\"plain_bytes_s\": %.4g, \"huge_bytes_s\": %.4g, \"flops_s\": %.4g}", many ? "all" : "one",
                median(read[many][0]), median(read[many][1]), median(rate[many]));
  std::printf("}\n");
}
