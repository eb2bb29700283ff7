// Lanes: the lanes of a vector are output channels.
//
// A block of LANES outputs belongs to so many neighbouring groups. The inputs of these are packed
// so that one of each group lie side by side; loaded again and again until the vector is full, they
// are what the lanes want. No lane is idle and no zero is multiplied but those of the padding,
// however few channels a group has. Where a processor multiplies two numbers of bfloat16 by two and
// adds them up at once, a lane holds a pair of neighbouring inputs instead of one as float.

#if defined(__AVX512F__)
constexpr int PIXELS = 14;  // two rows of sums, two weights, one pixel: 31 of 32 registers
#elif defined(__AVX2__)
constexpr int PIXELS = 6;  // 15 of 16
#else
constexpr int PIXELS = 12;
#endif

// GROUPS numbers, over and over.
template <int GROUPS>
inline Floats repeated(const float* from) {
  if constexpr (GROUPS == 1) return *from - Floats{};
#if defined(__AVX512F__)
  if constexpr (GROUPS == 2) {
    double both;
    std::memcpy(&both, from, sizeof both);
    return (Floats)_mm512_set1_pd(both);
  }
  if constexpr (GROUPS == 4) return (Floats)_mm512_broadcast_f32x4(_mm_loadu_ps(from));
  if constexpr (GROUPS == 8)
    return (Floats)_mm512_broadcast_f64x4((__m256d)_mm256_loadu_ps(from));
#elif defined(__AVX2__)
  if constexpr (GROUPS == 2) return (Floats)_mm256_broadcast_sd((const double*)from);
  if constexpr (GROUPS == 4) return (Floats)_mm256_broadcast_ps((const __m128*)from);
#else
  if constexpr (GROUPS == 2) return Floats{from[0], from[1], from[0], from[1]};
#endif
  return load(from);
}

// sum + a * b, lane by lane, of so many inputs EACH.
template <int EACH>
inline Floats add_product(Floats sum, Floats a, Floats b) {
#if defined(__AVX512BF16__)
  if constexpr (EACH == 2) return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
  return sum + a * b;
}

// Levels with as many groups and outputs, whose lanes want the same: a lane holds EACH inputs.
template <typename T, int EACH = 1>
struct Lanes {
  // Where a vector of packed numbers comes from, in up to four vectors of a pixel.
  struct Pick {
    Ints pair[2], join;
  };
  static constexpr int64_t SOURCES = 4;

  const Call<T>& call;
  std::vector<const Level<T>*> levels;
  Frame frame;
  int64_t channels, inputs;       // lanes that hold all of the input, and those of a group
  int64_t per_group, blocks;      // outputs of a group; vectors of outputs
  int64_t together, span, width;  // groups of a block; their inputs; pixels of a packed row
  int64_t line;                   // lanes of a row of the input: [channels / span, width, span]
  std::vector<Floats*> weights;   // of each level: [blocks, height, width, inputs]
  std::vector<Pick> picks;        // [span / LANES]
  Ints order;                     // of the lanes: outputs first, then groups; back to channels

  Lanes(const Call<T>& call, std::vector<const Level<T>*> alike)
      : call(call),
        levels(std::move(alike)),
        frame(call, levels),
        channels(call.channels / EACH),
        inputs(channels / levels[0]->groups),
        per_group(levels[0]->per_group()),
        blocks(levels[0]->outputs / LANES),
        together(std::max<int64_t>(1, LANES / per_group)),
        span(together * inputs),
        width((call.out_width - 1) * call.stride_x + frame.reach_x),
        line(width * channels) {}

  bool fits() const {
    const bool whole = per_group < LANES ? LANES % per_group == 0 : per_group % LANES == 0;
    return whole && call.channels / levels[0]->groups % EACH == 0 &&
           levels[0]->outputs % LANES == 0 && span % LANES == 0 &&
           (together == 1 || span <= SOURCES * LANES);
  }

  int64_t taps(const Level<T>& level) const { return inputs * level.height * level.width; }

  // Where a channel finds its lane, and a lane its input.
  void arrange() {
    for (int lane = 0; lane < LANES; ++lane) {
      const int64_t group = lane % together, output = lane / together;
      order[together == 1 ? lane : group * per_group + output] = lane;
    }
    picks.resize(together == 1 ? 0 : span / LANES);
    for (int64_t n = 0; n < int64_t(picks.size()) * LANES; ++n) {
      const int32_t from = n % together * inputs + n / together, lane = n % LANES;
      picks[n / LANES].pair[0][lane] = std::min(from, 2 * LANES - 1);
      picks[n / LANES].pair[1][lane] = std::max(from - 2 * LANES, 0);
      picks[n / LANES].join[lane] = from < 2 * LANES ? lane : lane + LANES;
    }
  }

  // Where the weights lie; returns the end of them.
  Floats* place(Floats* room) {
    arrange();
    for (auto* level : levels) {
      weights.push_back(room);
      room += blocks * taps(*level);
    }
    return room;
  }

  void fill(size_t l, int64_t block) const {
    const Level<T>& level = *levels[l];
    const int64_t area = level.height * level.width;
    const T* from = level.weight + block * LANES * taps(level) * EACH;
    Floats* to = weights[l] + block * taps(level);
    for (int64_t channel = 0; channel < LANES; ++channel)
      for (int64_t c = 0; c < inputs; ++c)
        for (int64_t each = 0; each < EACH; ++each)
          for (int64_t tap = 0; tap < area; ++tap) {
            Floats& v = to[tap * inputs + c];
            if constexpr (EACH == 1)
              v[order[channel]] = number(*from++);
            else
              std::memcpy((T*)&v + order[channel] * EACH + each, from++, sizeof(T));
          }
  }

  int64_t channel_of(int64_t block) const { return block * LANES / per_group * inputs; }

  // What fills a vector's lanes, from number `at` of so many on.
  static Floats lanes_of(const T* from, int64_t at) {
    if constexpr (EACH == 1) return load(from + at);
    return load((const float*)(from + at * EACH));
  }

  // A row of an image, `span` lanes of it: [width, inputs, together], zero beside the map.
  void pack(int64_t n, int64_t y, int64_t channel, float* packed) const {
    const int64_t vectors = span / LANES;
    const bool empty = y < 0 || y >= call.height;
    const int64_t left = empty ? width : std::min(frame.pad_x, width);
    const int64_t right = empty ? width : std::min(width, call.width + frame.pad_x);
    std::memset(packed, 0, left * span * sizeof(float));
    std::memset(packed + right * span, 0, (width - right) * span * sizeof(float));
    if (empty) return;
    float* to = packed + left * span;
    const T* pixel = call.pixel(n, y, left - frame.pad_x) + channel * EACH;
    for (int64_t q = left; q < right; ++q, to += span, pixel += call.channels) {
      if (picks.empty()) {
        for (int64_t v = 0; v < vectors; ++v) store(to + v * LANES, lanes_of(pixel, v * LANES));
      } else if (vectors == 1) {
        store(to, __builtin_shuffle(lanes_of(pixel, 0), picks[0].pair[0]));
      } else if (vectors == 2) {
        const Floats a = lanes_of(pixel, 0), b = lanes_of(pixel, LANES);
        store(to, __builtin_shuffle(a, b, picks[0].pair[0]));
        store(to + LANES, __builtin_shuffle(a, b, picks[1].pair[0]));
      } else {
        const Floats a = lanes_of(pixel, 0), b = lanes_of(pixel, LANES);
        const Floats c = lanes_of(pixel, 2 * LANES);
        const Floats d = vectors == 3 ? c : lanes_of(pixel, 3 * LANES);
        for (int64_t v = 0; v < vectors; ++v) {
          const Floats low = __builtin_shuffle(a, b, picks[v].pair[0]);
          const Floats high = __builtin_shuffle(c, d, picks[v].pair[1]);
          store(to + v * LANES, __builtin_shuffle(low, high, picks[v].join));
        }
      }
    }
  }

  // One row of taps, for one or two rows of the output that both want these pixels.
  template <int COUNT, int GROUPS, bool UPPER, bool LOWER>
  void add(const float* x, const Floats* upper, const Floats* lower, int64_t taps,
           Floats (&sums)[2][COUNT]) const {
    const int64_t step = call.dilation_x * span, stride = call.stride_x * span;
    for (int64_t k = 0; k < taps; ++k, x += step)
      for (int64_t c = 0; c < inputs; ++c) {
        Floats a, b;
        if constexpr (UPPER) a = *upper++;
        if constexpr (LOWER) b = *lower++;
        const float* at = x + c * GROUPS;
#pragma GCC unroll 16
        for (int i = 0; i < COUNT; ++i) {
          const Floats pixel = repeated<GROUPS>(at + i * stride);
          if constexpr (UPPER) sums[0][i] = add_product<EACH>(sums[0][i], a, pixel);
          if constexpr (LOWER) sums[1][i] = add_product<EACH>(sums[1][i], b, pixel);
        }
      }
  }

  // COUNT neighbouring pixels of a row of the output and, `apart` rows of taps on, of the next one;
  // the first of them begins at number x of each of the packed rows.
  template <int COUNT, int GROUPS>
  void sum(const Level<T>& level, const float* const* packed, int64_t x, const Floats* w,
           Floats bias, int64_t apart, Floats (*out)[PIXELS]) const {
    const int64_t height = level.height, row = level.width * inputs;
    Floats sums[2][COUNT];
    for (auto& row : sums)
      for (auto& one : row) one = bias;
    for (int64_t k = 0; k < height + apart; ++k, packed += call.dilation_y) {
      const Floats *upper = w + k * row, *lower = upper - apart * row;
      const bool above = k < height, below = apart && k >= apart;
      if (above && below)
        add<COUNT, GROUPS, true, true>(*packed + x, upper, lower, level.width, sums);
      else if (above)
        add<COUNT, GROUPS, true, false>(*packed + x, upper, lower, level.width, sums);
      else if (below)
        add<COUNT, GROUPS, false, true>(*packed + x, upper, lower, level.width, sums);
    }
    for (int j = 0; j < 2; ++j)
      for (int i = 0; i < COUNT; ++i) out[j][i] = sums[j][i];
  }

  // Rows y to y + step of the output of an image, from the packed rows that they want.
  void compute(int64_t n, int64_t y, int64_t step, const float* const* packed) const {
    const int64_t apart = step == 2 ? call.stride_y / call.dilation_y : 0;
    for (int64_t b = 0; b < blocks; ++b)
      for (size_t l = 0; l < levels.size(); ++l) {
        const Level<T>& level = *levels[l];
        const float* const* rows = packed + frame.pad_y - level.pad_y;
        const int64_t corner = channel_of(b) * width + (frame.pad_x - level.pad_x) * span;
        Floats bias{};
        if (level.bias)
          for (int c = 0; c < LANES; ++c) bias[order[c]] = number(level.bias[b * LANES + c]);
        for (int64_t q = 0, count; q < call.out_width; q += count) {
          for (count = PIXELS; count > call.out_width - q;) count /= 2;
          Floats sums[2][PIXELS];
          sized<PIXELS, LANES>(count, together, [&](auto pixels, auto groups) {
            sum<pixels, groups>(level, rows, corner + q * call.stride_x * span,
                                weights[l] + b * taps(level), bias, apart, sums);
          });
          for (int64_t j = 0; j < step; ++j)
            for (int64_t i = 0; i < count; ++i) {
              const Floats v = __builtin_shuffle(sums[j][i], order);
              store(call.output(n, y + j, q + i) + level.first + b * LANES, v);
            }
        }
      }
  }

  // The rows of input that two rows of output want.
  int64_t held() const { return frame.reach_y + call.stride_y; }
};

// The packed rows that are wanted now, in a ring: each row is packed once for all that want it.
template <typename T, int EACH>
struct Window {
  const Lanes<T, EACH>& lanes;
  float* ring;
  int64_t first, next;  // row of input: that with which the ring began, that to pack next
  std::vector<const float*> rows;

  Window(const Lanes<T, EACH>& lanes, float* ring, int64_t y)
      : lanes(lanes),
        ring(ring),
        first(y * lanes.call.stride_y - lanes.frame.pad_y),
        next(first),
        rows(lanes.held()) {}

  float* place(int64_t y) const { return ring + (y - first) % lanes.held() * lanes.line; }

  void compute(int64_t n, int64_t y, int64_t step) {
    const int64_t top = y * lanes.call.stride_y - lanes.frame.pad_y;
    const int64_t end = top + lanes.frame.reach_y + (step - 1) * lanes.call.stride_y;
    for (next = std::max(next, top); next < end; ++next)
      for (int64_t channel = 0; channel < lanes.channels; channel += lanes.span)
        lanes.pack(n, next, channel, place(next) + channel * lanes.width);
    for (int64_t row = top; row < end; ++row) rows[row - top] = place(row);
    lanes.compute(n, y, step, rows.data());
  }
};

template <typename T>
bool alike(const Level<T>& a, const Level<T>& b) {
  return a.groups == b.groups && a.outputs == b.outputs;
}

// Whether the levels fit; computes them if there is something to compute.
template <typename T, int EACH = 1>
bool by_lanes(const Call<T>& call) {
  std::vector<Lanes<T, EACH>> all;
  int64_t weights = 0, rings = 0;
  for (auto& list : grouped(call.all(), alike<T>)) all.emplace_back(call, list);
  for (const auto& lanes : all) {
    if (!lanes.fits()) return false;
    for (auto* level : lanes.levels) weights += lanes.blocks * lanes.taps(*level);
    rings += lanes.held() * lanes.line;
  }
  if (!call.x) return true;
  Floats* place = room<Floats>(0, weights);
  for (auto& lanes : all) place = lanes.place(place);
  const int64_t most = call.stride_y % call.dilation_y == 0 ? 2 : 1;  // rows at once
  const int64_t rows = call.rows_at_once(call.out_height, most);
#pragma omp parallel num_threads(call.threads)
  {
    for (const auto& lanes : all)
      for (size_t l = 0; l < lanes.levels.size(); ++l) {
#pragma omp for schedule(dynamic) nowait
        for (int64_t block = 0; block < lanes.blocks; ++block) lanes.fill(l, block);
      }
#pragma omp barrier
    float* packed = room<float>(1, rings);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t n = 0; n < call.images; ++n)
      for (int64_t top = 0; top < call.out_height; top += rows) {
        const int64_t end = std::min(call.out_height, top + rows);
        std::vector<Window<T, EACH>> windows;
        float* ring = packed;
        for (const auto& lanes : all) {
          windows.emplace_back(lanes, ring, top);
          ring += lanes.held() * lanes.line;
        }
        for (int64_t y = top, step; y < end; y += step) {
          step = std::min(most, end - y);
          for (auto& window : windows) window.compute(n, y, step);
        }
      }
  }
  return true;
}
