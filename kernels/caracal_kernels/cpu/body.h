// The kernels' bodies, written once over `Simd` and `Dot<T>` and compiled once per instruction set.
// Everything lies in an anonymous namespace: two instruction sets must never share an inline function.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

namespace caracal {
namespace {

using vec = Simd::vec;

// exp by Cody-Waite reduction and a degree-6 polynomial; the same operations in every lane, so a lane never sees its place.
inline vec exp_vec(vec x) {
  x = Simd::max(Simd::min(x, Simd::set(88.0f)), Simd::set(-87.0f));
  vec n = Simd::round(Simd::mul(x, Simd::set(1.44269504088896341f)));
  vec r = Simd::fma(n, Simd::set(-0.693359375f), x);
  r = Simd::fma(n, Simd::set(2.12194440e-4f), r);
  vec p = Simd::set(1.9875691500e-4f);
  p = Simd::fma(p, r, Simd::set(1.3981999507e-3f));
  p = Simd::fma(p, r, Simd::set(8.3334519073e-3f));
  p = Simd::fma(p, r, Simd::set(4.1665795894e-2f));
  p = Simd::fma(p, r, Simd::set(1.6666665459e-1f));
  p = Simd::fma(p, r, Simd::set(5.0000001201e-1f));
  p = Simd::add(Simd::fma(p, Simd::mul(r, r), r), Simd::set(1.0f));
  return Simd::mul(p, Simd::exp2i(n));
}

template <typename F>
inline void chunks(int64_t count, F&& each) {
  int64_t i = 0;
  for (; i + Simd::lanes <= count; i += Simd::lanes) each(i, static_cast<int64_t>(Simd::lanes));
  if (i < count) each(i, count - i);
}

template <typename T>
inline vec load_some(const T* p, int64_t count) {
  return count == Simd::lanes ? Simd::load(p) : Simd::load(p, count);
}

template <typename T>
inline void store_some(T* p, vec a, int64_t count) {
  if (count == Simd::lanes) {
    Simd::store(p, a);
  } else {
    Simd::store(p, a, count);
  }
}

// Dot products of rows with keys that lie as the cache has them. An output has its own accumulator vector, lanes along the
// depth, walked in one order and summed by one tree: rows and keys that run together do not change a bit.
template <typename T, int Rows, int Keys>
inline void dot_tile(const T* x, int64_t ldx, const T* w, int64_t ldw, float* c, int64_t ldc, int64_t depth) {
  using D = Dot<T>;
  vec acc[Rows][Keys];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < Keys; ++n) acc[m][n] = Simd::zero();
  auto add = [&](int64_t k, auto... some) {
    typename D::in wk[Keys];
    for (int n = 0; n < Keys; ++n) wk[n] = D::load(w + n * ldw + k, some...);
    for (int m = 0; m < Rows; ++m) {
      typename D::in xk = D::load(x + m * ldx + k, some...);
      for (int n = 0; n < Keys; ++n) acc[m][n] = D::mac(acc[m][n], xk, wk[n]);
    }
  };
  int64_t k = 0;
  for (; k + D::step <= depth; k += D::step) add(k);
  if (k < depth) add(k, depth - k);
  for (int m = 0; m < Rows; ++m) {
    if constexpr (Keys == 1) {
      c[m * ldc] = Simd::sum(acc[m][0]);
    } else {
      _mm_storeu_ps(c + m * ldc, Simd::sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3]));
    }
  }
}

template <typename T, int Keys>
inline void dot_rows(const T* x, int64_t ldx, const T* w, int64_t ldw, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  constexpr int most = Simd::max_rows;
  for (int64_t m = 0; m < rows;) {
    int64_t parts = (rows - m + most - 1) / most, some = (rows - m + parts - 1) / parts;
    const T* xm = x + m * ldx;
    float* cm = c + m * ldc;
    m += some;
    switch (some) {
      case 1: dot_tile<T, 1, Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
      case 2: dot_tile<T, std::min(2, most), Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
      case 3: dot_tile<T, std::min(3, most), Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
      case 4: dot_tile<T, std::min(4, most), Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
      case 5: dot_tile<T, std::min(5, most), Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
      default: dot_tile<T, std::min(6, most), Keys>(xm, ldx, w, ldw, cm, ldc, depth); break;
    }
  }
}

template <typename T>
inline void dots(const T* x, int64_t ldx, const T* w, int64_t ldw, float* c, int64_t ldc, int64_t rows, int64_t keys,
                 int64_t depth) {
  int64_t n = 0;
  for (; n + 4 <= keys; n += 4) dot_rows<T, 4>(x, ldx, w + n * ldw, ldw, c + n, ldc, rows, depth);
  for (; n < keys; ++n) dot_rows<T, 1>(x, ldx, w + n * ldw, ldw, c + n, ldc, rows, depth);
}

template <typename T>
inline vec rounded(vec a);
template <>
inline vec rounded<float>(vec a) { return a; }
template <>
inline vec rounded<bf16>(vec a) { return Simd::widen(Simd::narrow(a)); }

template <typename T>
void store(const float* c, const T* residual, T* out, int64_t count) {
  chunks(count, [&](int64_t i, int64_t some) {
    vec y = load_some(c + i, some);
    if (residual) y = Simd::add(load_some(residual + i, some), rounded<T>(y));
    store_some(out + i, y, some);
  });
}

template <typename T>
void rms_norm(const T* x, const T* weight, T* out, int64_t width, float eps) {
  vec squares = Simd::zero();
  chunks(width, [&](int64_t i, int64_t some) {
    vec v = load_some(x + i, some);
    squares = Simd::fma(v, v, squares);
  });
  vec factor = Simd::set(1.0f / std::sqrt(Simd::sum(squares) / static_cast<float>(width) + eps));
  chunks(width, [&](int64_t i, int64_t some) {
    vec normed = rounded<T>(Simd::mul(load_some(x + i, some), factor));
    store_some(out + i, Simd::mul(normed, load_some(weight + i, some)), some);
  });
}

template <typename T>
void silu_mul(const float* gate, const float* up, T* out, int64_t width) {
  chunks(width, [&](int64_t i, int64_t some) {
    vec g = load_some(gate + i, some);
    vec sigmoid = Simd::add(Simd::set(1.0f), exp_vec(Simd::sub(Simd::zero(), g)));
    store_some(out + i, Simd::mul(Simd::div(g, sigmoid), load_some(up + i, some)), some);
  });
}

template <typename T>
void scale(const T* x, float factor, T* out, int64_t count) {
  chunks(count, [&](int64_t i, int64_t some) {
    store_some(out + i, Simd::mul(load_some(x + i, some), Simd::set(factor)), some);
  });
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  __builtin_memcpy(&y, &bits, 4);
  return y;
}
inline void put(float* out, float x) { *out = x; }
inline void put(bf16* out, float x) { Simd::store(out, Simd::set(x), 1); }

template <typename T>
void rope(const T* x, const float* cos_sin, T* out, int64_t width) {
  int64_t half = width / 2;
  for (int64_t i = 0; i < half; ++i) {
    float even = to_float(x[2 * i]), odd = to_float(x[2 * i + 1]), c = cos_sin[i], s = cos_sin[half + i];
    put(out + i, even * c - odd * s);
    put(out + half + i, odd * c + even * s);
  }
}

template <typename T>
void add_scaled(float* acc, const T* row, float weight, int64_t width) {
  vec w = Simd::set(weight);
  chunks(width, [&](int64_t i, int64_t some) {
    store_some(acc + i, Simd::add(load_some(acc + i, some), Simd::mul(w, load_some(row + i, some))), some);
  });
}

template <typename T>
void widen(const T* x, float* out, int64_t count) {
  chunks(count, [&](int64_t i, int64_t some) { store_some(out + i, load_some(x + i, some), some); });
}

inline float largest(const float* x, int64_t count) {
  vec top = Simd::set(-std::numeric_limits<float>::infinity());
  chunks(count, [&](int64_t i, int64_t some) {
    if (some == Simd::lanes) {
      top = Simd::max(Simd::load(x + i), top);
    } else {
      for (int64_t j = i; j < i + some; ++j) top = Simd::max(Simd::set(x[j]), top);
    }
  });
  return Simd::highest(top);
}

template <typename T>
void softmax(float* p, int64_t count) {
  float top = largest(p, count);
  vec total = Simd::zero();
  chunks(count, [&](int64_t i, int64_t some) {
    vec e = exp_vec(Simd::sub(load_some(p + i, some), Simd::set(top)));
    store_some(p + i, e, some);
    total = Simd::add(total, load_some(p + i, some));
  });
  vec sum = Simd::set(Simd::sum(total));
  chunks(count, [&](int64_t i, int64_t some) { store_some(p + i, Simd::div(load_some(p + i, some), sum), some); });
}

template <typename T>
int64_t argmax(const float* x, int64_t count) {
  float top = largest(x, count);
  for (int64_t i = 0; i < count; ++i)
    if (x[i] == top) return i;
  return 0;
}

template <typename T>
void exp_scaled(const float* x, float top, float heat, float* out, int64_t count) {
  chunks(count, [&](int64_t i, int64_t some) {
    store_some(out + i, exp_vec(Simd::div(Simd::sub(load_some(x + i, some), Simd::set(top)), Simd::set(heat))), some);
  });
}

}  // namespace
}  // namespace caracal

#include "latent.h"

#include "attend.h"
#include "fp8.h"
#include "matrix.h"

namespace caracal {
namespace {

template <typename T>
constexpr Kernels<T> table() {
  return {multiply<T>, multiply_fp8_of<T>(), pack<T>,       store<T>, rms_norm<T>, silu_mul<T>, scale<T>,
          rope<T>,     attend<T>,            write_latent<T>, add_scaled<T>, widen<T>, softmax<T>, argmax<T>, exp_scaled<T>};
}

}  // namespace
}  // namespace caracal
