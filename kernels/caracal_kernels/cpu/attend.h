// Attention of one or more consecutive queries of a sequence. Included by body.h, whose helpers it uses.
//
// Queries share the reading of a block of keys, and their chains of dependent operations overlap. A row is one query's one
// head: its blocks come in order, and within a block its keys, so its bits do not depend on how many rows run together.
#pragma once

namespace caracal {
namespace {

constexpr int kKeyBlock = 16;  // the online softmax steps at absolute multiples of this
// Sums of so many keys are added up apart: one running fp32 sum over 30000 keys would lose a digit.
constexpr int kSegment = 256;

// What a row keeps between blocks, for all rows: sums of values, largest score, sum of weights, of this segment and of all
// before it; and the block's own.
struct Softmax {
  float *acc, *all_acc, *tops, *all_tops, *sums, *all_sums, *shrinks, *scores;
  Softmax(float* scratch, int64_t rows, int64_t latent)
      : acc(scratch),
        all_acc(acc + rows * latent),
        tops(all_acc + rows * latent),
        all_tops(tops + rows),
        sums(all_tops + rows),
        all_sums(sums + rows),
        shrinks(all_sums + rows),
        scores(shrinks + rows) {
    std::fill(acc, all_acc, 0.0f);
    std::fill(tops, all_tops, -std::numeric_limits<float>::infinity());
    std::fill(sums, all_sums, 0.0f);
  }

  // Adds the segment's sums to those before it, and begins the next one. The `first` segment's become them as they are.
  void fold(int64_t row, int64_t rows, int64_t latent, bool first) const {
    if (!first) {
      chunks(rows, [&](int64_t r, int64_t count) {
        vec moved = Simd::sub(load_some(all_tops + row + r, count), load_some(tops + row + r, count));
        store_some(shrinks + row + r, exp_vec(moved), count);
      });
    }
    for (int64_t r = row; r < row + rows; ++r) {
      vec factor = Simd::set(shrinks[r]);
      chunks(latent, [&](int64_t i, int64_t count) {
        float *part = acc + r * latent + i, *all = all_acc + r * latent + i;
        vec sum = load_some(part, count);
        if (!first) sum = Simd::fma(load_some(all, count), factor, sum);
        store_some(all, sum, count);
        store_some(part, Simd::zero(), count);
      });
      all_sums[r] = first ? sums[r] : all_sums[r] * shrinks[r] + sums[r];
      all_tops[r] = tops[r];
      sums[r] = 0.0f;
    }
  }
};

// Scales the scores and raises the tops; leaves in `shrinks` by how much what came before shrinks.
inline void raise_tops(float* scores, float* tops, float* shrinks, int64_t rows, int64_t some, float scale, bool first) {
  vec factor = Simd::set(scale);
  for (int64_t r = 0; r < rows; ++r) {
    float* p = scores + r * kKeyBlock;
    for (int j = 0; j < kKeyBlock; j += Simd::lanes) Simd::store(p + j, Simd::mul(Simd::load(p + j), factor));
    if (some < kKeyBlock) std::fill(p + some, p + kKeyBlock, -std::numeric_limits<float>::infinity());
    vec best = Simd::set(tops[r]);
    for (int j = 0; j < kKeyBlock; j += Simd::lanes) best = Simd::max(Simd::load(p + j), best);
    float top = Simd::highest(best);
    shrinks[r] = tops[r] - top;
    tops[r] = top;
  }
  if (first) {
    std::fill(shrinks, shrinks + rows, 0.0f);
  } else {
    chunks(rows, [&](int64_t r, int64_t count) { store_some(shrinks + r, exp_vec(load_some(shrinks + r, count)), count); });
  }
}

// Turns scaled scores into weights in place, and adds them to the sums.
inline void weigh(float* scores, const float* tops, float* sums, const float* shrinks, int64_t rows, int64_t some) {
  for (int64_t r = 0; r < rows; ++r) {
    float* p = scores + r * kKeyBlock;
    vec total = Simd::zero(), top = Simd::set(tops[r]);
    for (int j = 0; j < kKeyBlock; j += Simd::lanes) {
      vec e = exp_vec(Simd::sub(Simd::load(p + j), top));
      Simd::store(p + j, e);
      if (some < j + Simd::lanes) {
        std::fill(p + std::max<int64_t>(some, j), p + j + Simd::lanes, 0.0f);
        e = Simd::load(p + j);
      }
      total = Simd::add(total, e);
    }
    sums[r] = sums[r] * shrinks[r] + Simd::sum(total);
  }
}

// acc = acc * shrink + sum over the block's keys of weight * latent, keys in order, for Rows rows and Vecs vectors of each.
template <typename T, int Rows, int Vecs>
inline void values_tile(float* acc, int64_t latent, const T* block, int64_t width, const float* p, int64_t some,
                        const float* shrinks) {
  constexpr int lanes = Simd::lanes;
  vec a[Rows][Vecs];
  for (int r = 0; r < Rows; ++r)
    for (int n = 0; n < Vecs; ++n) a[r][n] = Simd::mul(Simd::load(acc + r * latent + n * lanes), Simd::set(shrinks[r]));
  for (int64_t j = 0; j < some; ++j) {
    vec value[Vecs];
    for (int n = 0; n < Vecs; ++n) value[n] = Simd::load(block + j * width + n * lanes);
    for (int r = 0; r < Rows; ++r) {
      vec weight = Simd::set(p[r * kKeyBlock + j]);
      for (int n = 0; n < Vecs; ++n) a[r][n] = Simd::fma(weight, value[n], a[r][n]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int n = 0; n < Vecs; ++n) Simd::store(acc + r * latent + n * lanes, a[r][n]);
}

// The latent's vectors, four, two and one at a time, then what is left of it.
template <typename T, int Rows>
inline void values_rows(float* acc, int64_t latent, const T* block, int64_t width, const float* p, int64_t some,
                        const float* shrinks) {
  constexpr int lanes = Simd::lanes;
  int64_t i = 0;
  for (; i + 4 * lanes <= latent; i += 4 * lanes) values_tile<T, Rows, 4>(acc + i, latent, block + i, width, p, some, shrinks);
  for (; i + 2 * lanes <= latent; i += 2 * lanes) values_tile<T, Rows, 2>(acc + i, latent, block + i, width, p, some, shrinks);
  for (; i + lanes <= latent; i += lanes) values_tile<T, Rows, 1>(acc + i, latent, block + i, width, p, some, shrinks);
  if (i == latent) return;
  for (int r = 0; r < Rows; ++r) {
    vec a = Simd::mul(Simd::load(acc + r * latent + i, latent - i), Simd::set(shrinks[r]));
    for (int64_t j = 0; j < some; ++j)
      a = Simd::fma(Simd::set(p[r * kKeyBlock + j]), Simd::load(block + j * width + i, latent - i), a);
    Simd::store(acc + r * latent + i, a, latent - i);
  }
}

// One block of `some` keys for `rows` rows.
template <typename T>
inline void attend_block(const Softmax& state, int64_t row, int64_t rows, const T* q, const T* block, int64_t width,
                         int64_t latent, int64_t some, float scale, bool first) {
  float *p = state.scores, *acc = state.acc + row * latent, *tops = state.tops + row, *shrinks = state.shrinks + row;
  dots<T>(q, width, block, width, p, kKeyBlock, rows, some, width);
  raise_tops(p, tops, shrinks, rows, some, scale, first);
  weigh(p, tops, state.sums + row, shrinks, rows, some);
  constexpr int most = Simd::max_rows;
  int64_t r = 0;
  for (; r + most <= rows; r += most)
    values_rows<T, most>(acc + r * latent, latent, block, width, p + r * kKeyBlock, some, shrinks + r);
  for (; r + 2 <= rows; r += 2)
    values_rows<T, 2>(acc + r * latent, latent, block, width, p + r * kKeyBlock, some, shrinks + r);
  for (; r < rows; ++r) values_rows<T, 1>(acc + r * latent, latent, block, width, p + r * kKeyBlock, some, shrinks + r);
}

template <typename T>
void attend(const T* q, const Cache& cache, const int32_t* pages, int64_t page_size, int64_t keys, int64_t sink, int64_t gap,
            int64_t queries, int64_t heads, int64_t width, int64_t latent, float scale, T* o, float* scratch,
            T* buffer) {
  int64_t rows = queries * heads;
  Softmax state(scratch, rows, latent);
  auto block_at = [&](int64_t begin, int64_t some) {
    const uint8_t* at = cache.at + (pages[begin / page_size] * page_size + begin % page_size) * cache.row;
    if (!cache.codes) return reinterpret_cast<const T*>(at);
    for (int64_t j = 0; j < some; ++j, at += cache.row) {
      read_latent(at, reinterpret_cast<const float*>(at + cache.scales), buffer + j * width, cache.codes);
      std::memcpy(buffer + j * width + cache.codes, at + cache.rope, (width - cache.codes) * sizeof(T));
    }
    return static_cast<const T*>(buffer);
  };
  auto block = [&](int64_t begin, int64_t row, int64_t some_rows, int64_t some, bool& folded) {
    if (begin && begin % kSegment == 0) {
      state.fold(row, some_rows, latent, !folded);
      folded = true;
    }
    attend_block<T>(state, row, some_rows, q + row * width, block_at(begin, some), width, latent, some, scale, begin == 0);
  };
  int64_t shared = keys / kKeyBlock * kKeyBlock;  // of these keys every query sees whole blocks
  bool folded = false;
  for (int64_t begin = 0; begin < shared; begin += kKeyBlock) {
    if (begin == sink) begin += gap;
    if (begin >= shared) break;
    block(begin, 0, rows, kKeyBlock, folded);
  }
  for (int64_t query = 0; query < queries; ++query) {
    int64_t own = keys + query;
    bool own_folded = folded;
    for (int64_t begin = shared; begin < own; begin += kKeyBlock)
      block(begin, query * heads, heads, std::min<int64_t>(kKeyBlock, own - begin), own_folded);
    state.fold(query * heads, heads, latent, !own_folded);
  }
  for (int64_t r = 0; r < rows; ++r) {
    vec sum = Simd::set(state.all_sums[r]);
    chunks(latent, [&](int64_t i, int64_t some) {
      store_some(o + r * latent + i, Simd::div(load_some(state.all_acc + r * latent + i, some), sum), some);
    });
  }
}

}  // namespace
}  // namespace caracal
