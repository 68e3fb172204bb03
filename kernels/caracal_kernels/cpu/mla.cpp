// mla_project, mla_attention, mla_values, mla_output. C latent, R rope dims, L = C + R, H heads.
#include "weights.h"

namespace caracal {

constexpr int64_t kSparseBlock = 128;  // of streaming-sparse attention

// Rows of a latent cache: C codes padded to whole floats, a float for every 128 of them, the rope key, padded again.
Cache cache_of(const char* op, const Tensor& cache, at::ScalarType dtype, int64_t latent, int64_t width) {
  const int64_t size = static_cast<int64_t>(at::elementSize(dtype));
  const uint8_t* at = ptr<uint8_t>(cache);
  if (cache.scalar_type() != at::kByte) {
    check(op, "cache", cache, dtype, 3);
    check_size(op, "cache", cache, 2, width);
    return {at, width * size, 0, 0, 0};
  }
  check(op, "cache", cache, at::kByte, 3);
  const int64_t scales = (latent + 3) / 4 * 4, rope = scales + (latent + 127) / 128 * 4;
  const int64_t row = (rope + (width - latent) * size + 3) / 4 * 4;
  check_size(op, "cache", cache, 2, row);
  return {at, row, latent, scales, rope};
}

struct Sizes {
  int64_t rows, hidden, q_rank, heads, nope, latent, rope, width;
  MatrixShape q_a, q_b, kv_a, w_uk;
};

Sizes check_project(const Tensor& x, const Tensor& norm, const Tensor& q_a, const Tensor& q_a_norm, const Tensor& q_b,
                    const Tensor& kv_a, const Tensor& kv_a_norm, const Tensor& w_uk, const Tensor& cos_sin,
                    const Tensor& positions, const Tensor& slot_mapping, const Tensor& cache) {
  const char* op = "mla_project";
  auto dtype = model_dtype(op, "x", x);
  check(op, "x", x, dtype, 2);
  check(op, "norm", norm, dtype, 1);
  const MatrixShape q_a_shape = matrix_shape(op, "q_a", q_a, dtype), q_b_shape = matrix_shape(op, "q_b", q_b, dtype);
  const MatrixShape kv_a_shape = matrix_shape(op, "kv_a", kv_a, dtype), w_uk_shape = matrix_shape(op, "w_uk", w_uk, dtype, 3);
  check(op, "q_a_norm", q_a_norm, dtype, 1);
  check(op, "kv_a_norm", kv_a_norm, dtype, 1);
  check(op, "cos_sin", cos_sin, at::kFloat, 2);
  check(op, "positions", positions, at::kInt, 1);
  check(op, "slot_mapping", slot_mapping, at::kInt, 1);
  const int64_t latent = w_uk_shape.columns, rope = cos_sin.size(1);
  Sizes s{x.size(0),       x.size(1), q_a_shape.columns, w_uk_shape.heads, w_uk_shape.depth, latent,
          rope,            latent + rope, q_a_shape,     q_b_shape,        kv_a_shape,       w_uk_shape};
  check_size(op, "norm", norm, 0, s.hidden);
  check_depth(op, "q_a", s.q_a, s.hidden);
  check_size(op, "q_a_norm", q_a_norm, 0, s.q_rank);
  check_columns(op, "q_b", s.q_b, s.heads * (s.nope + s.rope));
  check_depth(op, "q_b", s.q_b, s.q_rank);
  check_columns(op, "kv_a", s.kv_a, s.latent + s.rope);
  check_depth(op, "kv_a", s.kv_a, s.hidden);
  check_size(op, "kv_a_norm", kv_a_norm, 0, s.latent);
  check_size(op, "positions", positions, 0, s.rows);
  check_size(op, "slot_mapping", slot_mapping, 0, s.rows);
  int64_t places = cache.size(0) * cache.size(1);
  for (int64_t t = 0; t < s.rows; ++t) {
    int32_t position = ptr<int32_t>(positions)[t], at = ptr<int32_t>(slot_mapping)[t];
    TORCH_CHECK(position >= 0 && position < cos_sin.size(0), op, ": positions[", t, "] = ", position, " lies outside cos_sin");
    TORCH_CHECK(at >= -1 && at < places, op, ": slot_mapping[", t, "] = ", at, " lies outside the cache");
  }
  return s;
}

// q = round(scale * q_b norm(q_a h)) in `q`, [rows, heads * (nope + rope)].
template <typename T>
void project_query(const Sizes& s, const T* h, const Tensor& q_a, const Tensor& q_a_norm, const Tensor& q_b, float scale,
                   float eps, float* c, T* low, T* q) {
  const auto& k = active<T>();
  product<T>(h, s.hidden, s.q_a.matrix<T>(q_a), c, s.q_rank, s.rows);
  k.store(c, nullptr, low, s.rows * s.q_rank);
  for (int64_t t = 0; t < s.rows; ++t)
    k.rms_norm(low + t * s.q_rank, ptr<T>(q_a_norm), low + t * s.q_rank, s.q_rank, eps);
  int64_t n = s.heads * (s.nope + s.rope);
  product<T>(low, s.q_rank, s.q_b.matrix<T>(q_b), c, n, s.rows);
  k.store(c, nullptr, q, s.rows * n);
  k.scale(q, scale, q, s.rows * n);
}

Tensor mla_project(const Tensor& x, const Tensor& positions, const Tensor& slot_mapping, Tensor cache, const Tensor& norm,
                   const Tensor& q_a, const Tensor& q_a_norm, const Tensor& q_b, const Tensor& kv_a,
                   const Tensor& kv_a_norm, const Tensor& w_uk, const Tensor& cos_sin, double norm_eps, double lora_eps,
                   double q_scale, double kv_scale) {
  Sizes s = check_project(x, norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, w_uk, cos_sin, positions, slot_mapping, cache);
  const Cache rows = cache_of("mla_project", cache, x.scalar_type(), s.latent, s.width);
  Tensor out = at::empty({s.rows, s.heads, s.width}, x.options());
  by_dtype(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const auto& k = active<T>();
    int64_t per_head = s.nope + s.rope, n = s.heads * per_head;
    float* c = scratch<float>(0, s.rows * std::max({s.q_rank, n, s.width, s.heads * s.latent}));
    T* h = scratch<T>(1, s.rows * s.hidden);
    T* low = scratch<T>(2, s.rows * std::max(s.q_rank, s.width));
    T* q = scratch<T>(3, s.rows * n);
    T* nowhere = scratch<T>(4, s.width);
    float eps_lora = static_cast<float>(lora_eps);
    for (int64_t t = 0; t < s.rows; ++t)
      k.rms_norm(ptr<T>(x) + t * s.hidden, ptr<T>(norm), h + t * s.hidden, s.hidden, static_cast<float>(norm_eps));
    project_query<T>(s, h, q_a, q_a_norm, q_b, static_cast<float>(q_scale), eps_lora, c, low, q);

    product<T>(h, s.hidden, s.kv_a.matrix<T>(kv_a), c, s.width, s.rows);
    k.store(c, nullptr, low, s.rows * s.width);
    for (int64_t t = 0; t < s.rows; ++t) {
      int32_t at = ptr<int32_t>(slot_mapping)[t];
      uint8_t* row = ptr<uint8_t>(cache) + at * rows.row;
      T* place = at < 0 || rows.codes ? nowhere : reinterpret_cast<T*>(row);
      const float* angles = ptr<float>(cos_sin) + ptr<int32_t>(positions)[t] * s.rope;
      k.rms_norm(low + t * s.width, ptr<T>(kv_a_norm), place, s.latent, eps_lora);
      k.scale(place, static_cast<float>(kv_scale), place, s.latent);
      k.rope(low + t * s.width + s.latent, angles, place + s.latent, s.rope);
      if (at >= 0 && rows.codes) {
        k.write_latent(place, s.latent, row, reinterpret_cast<float*>(row + rows.scales));
        std::memcpy(row + rows.rope, place + s.latent, s.rope * sizeof(T));
      }
      for (int64_t i = 0; i < s.heads; ++i)
        k.rope(q + t * n + i * per_head + s.nope, angles, ptr<T>(out) + (t * s.heads + i) * s.width + s.latent, s.rope);
    }
    for (int64_t i = 0; i < s.heads; ++i)
      product<T>(q + i * per_head, n, s.w_uk.matrix<T>(w_uk).head(i), c + i * s.latent, s.heads * s.latent, s.rows);
    for (int64_t t = 0; t < s.rows * s.heads; ++t) k.store(c + t * s.latent, nullptr, ptr<T>(out) + t * s.width, s.latent);
  });
  return out;
}

constexpr int64_t kRowsOfRun = 48;  // (query, head) rows that attend together: their sums stay in the first cache

// Where runs of consecutive positions of one sequence begin, each of at most `most` queries; the last entry is the end.
// A run of sparse rows ends with its block of positions: up to there they leave out the same keys.
std::vector<int64_t> runs(const Tensor& seq, const Tensor& positions, int64_t most, bool sparse) {
  std::vector<int64_t> starts{0};
  int64_t rows = seq.size(0);
  const int32_t *s = ptr<int32_t>(seq), *p = ptr<int32_t>(positions);
  for (int64_t t = 1; t < rows; ++t)
    if (t - starts.back() == most || s[t] != s[t - 1] || p[t] != p[t - 1] + 1 || (sparse && p[t] % kSparseBlock == 0))
      starts.push_back(t);
  starts.push_back(rows);
  return starts;
}

Tensor mla_attention(const Tensor& q, const Tensor& cache, const Tensor& page_table, const Tensor& seq,
                     const Tensor& positions, double scale, int64_t latent, int64_t sink_blocks, int64_t recent_blocks) {
  const char* op = "mla_attention";
  auto dtype = model_dtype(op, "q", q);
  check(op, "q", q, dtype, 3);
  check(op, "page_table", page_table, at::kInt, 2);
  check(op, "seq", seq, at::kInt, 1);
  check(op, "positions", positions, at::kInt, 1);
  int64_t rows = q.size(0), heads = q.size(1), width = q.size(2), table_width = page_table.size(1);
  TORCH_CHECK(latent > 0 && latent <= width, op, ": kv_lora_rank ", latent, " does not fit q's width ", width);
  const Cache keys = cache_of(op, cache, dtype, latent, width);
  const int64_t page_size = cache.size(1);
  check_size(op, "seq", seq, 0, rows);
  check_size(op, "positions", positions, 0, rows);
  TORCH_CHECK(page_size % 16 == 0, op, ": the page size ", page_size, " is not a multiple of 16");
  TORCH_CHECK(recent_blocks == 0 || (recent_blocks > 0 && sink_blocks > 0), op, ": sink_blocks ", sink_blocks,
              " and recent_blocks ", recent_blocks, " leave a row without a first or a last block");
  // How many keys row t leaves out behind the sink; blocks begin at absolute multiples.
  auto left_out = [&](int64_t t) -> int64_t {
    int64_t blocks = ptr<int32_t>(positions)[t] / kSparseBlock + 1 - recent_blocks - sink_blocks;
    return recent_blocks ? std::max<int64_t>(0, blocks) * kSparseBlock : 0;
  };
  int64_t total_keys = 0;
  for (int64_t t = 0; t < rows; ++t) {
    int64_t s = ptr<int32_t>(seq)[t], pages = ptr<int32_t>(positions)[t] / page_size + 1;
    TORCH_CHECK(s >= 0 && s < page_table.size(0), op, ": seq[", t, "] = ", s, " lies outside page_table");
    TORCH_CHECK(ptr<int32_t>(positions)[t] >= 0 && pages <= table_width, op, ": positions[", t, "] lies outside page_table");
    total_keys += ptr<int32_t>(positions)[t] + 1 - left_out(t);
    int64_t sink_pages = (sink_blocks * kSparseBlock + page_size - 1) / page_size;
    int64_t next_page = (sink_blocks * kSparseBlock + left_out(t)) / page_size;
    for (int64_t p = 0; p < pages; ++p) {
      if (recent_blocks && p == sink_pages) p = std::max(p, next_page);  // what lies between is not read
      int32_t page = ptr<int32_t>(page_table)[s * table_width + p];
      TORCH_CHECK(page >= 0 && page < cache.size(0), op, ": page_table[", s, ", ", p, "] = ", page, " is no page");
    }
  }
  Tensor out = at::empty({rows, heads, latent}, q.options());
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    auto attend = [&](int64_t t, int64_t queries, int64_t first, int64_t end) {
      active<T>().attend(ptr<T>(q) + (t * heads + first) * width, keys,
                         ptr<int32_t>(page_table) + ptr<int32_t>(seq)[t] * table_width, page_size,
                         ptr<int32_t>(positions)[t] + 1, sink_blocks * kSparseBlock, left_out(t), queries, end - first, width,
                         latent, static_cast<float>(scale), ptr<T>(out) + (t * heads + first) * latent,
                         scratch<float>(5, queries * heads * (2 * latent + 21)), scratch<T>(6, 16 * width));
    };
    // Every thread takes every n-th run of queries, since later ones have more keys; few rows are split by heads instead.
    int64_t threads = total_keys * heads * width * 2 > kFlopsPerThread ? at::get_num_threads() : 1;
    std::vector<int64_t> starts;
    int64_t most = std::clamp<int64_t>(kRowsOfRun / heads, 1, std::max<int64_t>(1, rows / (2 * threads)));
    if (rows >= 2 * threads) starts = runs(seq, positions, most, recent_blocks > 0);
    in_parallel(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        if (rows >= 2 * threads) {
          for (size_t run = part; run + 1 < starts.size(); run += threads)
            attend(starts[run], starts[run + 1] - starts[run], 0, heads);
        } else {
          for (int64_t t = 0; t < rows; ++t) attend(t, 1, heads * part / threads, heads * (part + 1) / threads);
        }
      }
    });
  });
  return out;
}

MatrixShape values_shape(const char* op, const Tensor& o, const Tensor& w_uv) {
  auto dtype = model_dtype(op, "o", o);
  check(op, "o", o, dtype, 3);
  const MatrixShape shape = matrix_shape(op, "w_uv", w_uv, dtype, 3);
  TORCH_CHECK(shape.heads == o.size(1), op, ": w_uv has size ", shape.heads, " in dimension 0, expected ", o.size(1));
  TORCH_CHECK(shape.depth == o.size(2), op, ": w_uv has size ", shape.depth, " in dimension 2, expected ", o.size(2));
  return shape;
}

// v[rows, heads * values] = round(o_head w_uv_head^T), head beside head
template <typename T>
void head_values(const Tensor& o, const Matrix<T>& w_uv, T* v) {
  int64_t rows = o.size(0), heads = o.size(1), latent = o.size(2), values = w_uv.columns, wide = heads * values;
  float* c = scratch<float>(0, rows * wide);
  for (int64_t i = 0; i < heads; ++i)
    product<T>(ptr<T>(o) + i * latent, heads * latent, w_uv.head(i), c + i * values, wide, rows);
  active<T>().store(c, nullptr, v, rows * wide);
}

Tensor mla_values(const Tensor& o, const Tensor& w_uv) {
  const MatrixShape shape = values_shape("mla_values", o, w_uv);
  Tensor out = at::empty({o.size(0), o.size(1) * shape.columns}, o.options());
  by_dtype(o.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    head_values<T>(o, shape.matrix<T>(w_uv), ptr<T>(out));
  });
  return out;
}

Tensor mla_output(const Tensor& o, const Tensor& w_uv, const Tensor& o_proj, const Tensor& residual) {
  const char* op = "mla_output";
  const MatrixShape values = values_shape(op, o, w_uv);
  auto dtype = o.scalar_type();
  const MatrixShape output = matrix_shape(op, "o_proj", o_proj, dtype);
  check(op, "residual", residual, dtype, 2);
  int64_t rows = o.size(0), wide = o.size(1) * values.columns, hidden = output.columns;
  check_depth(op, "o_proj", output, wide);
  check_size(op, "residual", residual, 0, rows);
  check_size(op, "residual", residual, 1, hidden);
  Tensor out = at::empty_like(residual);
  by_dtype(dtype, [&](auto kind) {
    using T = decltype(kind);
    T* v = scratch<T>(1, rows * wide);
    head_values<T>(o, values.matrix<T>(w_uv), v);
    float* c = scratch<float>(0, rows * hidden);
    product<T>(v, wide, output.matrix<T>(o_proj), c, hidden, rows);
    active<T>().store(c, ptr<T>(residual), ptr<T>(out), rows * hidden);
  });
  return out;
}

TORCH_LIBRARY_IMPL(caracal, CPU, m) {
  m.impl("mla_project", &mla_project);
  m.impl("mla_attention", &mla_attention);
  m.impl("mla_values", &mla_values);
  m.impl("mla_output", &mla_output);
}

}  // namespace caracal
