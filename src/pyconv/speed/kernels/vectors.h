// Vectors to compute with, as wide as the processor has them, of float and to and from bfloat16.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
using Bits = uint32_t __attribute__((vector_size(4 * LANES)));
using Halves = uint16_t __attribute__((vector_size(2 * LANES)));

struct Bfloat16 {
  uint16_t bits;
};

inline float number(float value) { return value; }
inline float number(Bfloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Floats load(const Bfloat16* from) {
  Halves half;
  std::memcpy(&half, from, sizeof half);
  return (Floats)(__builtin_convertvector(half, Bits) << 16);
}

inline Floats rectified(Floats v) { return v < 0 ? Floats{} : v; }  // NaN stays NaN

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }
inline void store(Bfloat16* to, Floats v) {  // to the nearest, ties to even, NaN to NaN
#if defined(__AVX512F__) && defined(__AVX512BF16__)
  const auto half = _mm512_cvtneps_pbh((__m512)v);
#else
  const Bits bits = (Bits)v;
  const Bits near = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Halves half = __builtin_convertvector(v == v ? near : Bits{} + 0x7fc0, Halves);
#endif
  std::memcpy(to, &half, sizeof half);
}

// Calls `run` with the largest numbers, as types, that come of halving and that there is work for.
template <int COUNT, int GROUPS, typename Run>
void sized(int64_t count, int64_t groups, Run run) {
  if constexpr (COUNT > 1)
    if (count < COUNT) return sized<COUNT / 2, GROUPS>(count, groups, run);
  if constexpr (GROUPS > 1)
    if (groups < GROUPS) return sized<COUNT, GROUPS / 2>(count, groups, run);
  run(std::integral_constant<int, COUNT>{}, std::integral_constant<int, GROUPS>{});
}

inline void set(float& to, float value) { to = value; }
inline void set(Bfloat16& to, float value) {
  Bfloat16 all[LANES];
  store(all, value - Floats{});
  to = all[0];
}
