// Lanes: the lanes of a vector are output channels.
//
// For each input of a group a vector is packed that holds, for every lane, the channel which that
// lane's group wants. No lane is idle and no zero is multiplied but those of the padding, however
// few channels a group has.

#if defined(__AVX512F__)
constexpr int PIXELS = 14;  // two rows of sums, two weights, one pixel: 31 of 32 registers
#elif defined(__AVX2__)
constexpr int PIXELS = 6;  // 15 of 16
#else
constexpr int PIXELS = 12;
#endif

// Levels with as many groups and outputs, whose lanes want the same.
template <typename T>
struct Lanes {
  // Where an input of every lane's group is found among those of the block, in up to 4 vectors.
  struct Pick {
    Ints pair[2], join;
  };

  const Call<T>& call;
  std::vector<const Level<T>*> levels;
  Frame frame;
  int64_t inputs, per_group, blocks, span, width;  // width: pixels of a packed row
  std::vector<Buffer<Floats>> weights;             // of each level: [blocks, inputs, height, width]
  Buffer<Pick> picks;                              // [inputs]

  Lanes(const Call<T>& call, std::vector<const Level<T>*> alike)
      : call(call),
        levels(std::move(alike)),
        frame(call, levels),
        inputs(call.channels / levels[0]->groups),
        per_group(levels[0]->per_group()),
        blocks(levels[0]->outputs / LANES),
        span(std::max<int64_t>(1, LANES / per_group) * inputs),
        width((call.out_width - 1) * call.stride_x + frame.reach_x),
        picks(inputs) {}

  bool fits() const {
    const int64_t sources = span / LANES;
    return levels[0]->outputs % LANES == 0 && std::max<int64_t>(per_group, LANES) % std::min<int64_t>(per_group, LANES) == 0 &&
           span % LANES == 0 && (per_group >= LANES || sources == 1 || sources == 2 || sources == 4);
  }

  void prepare() {
    for (auto* level : levels) {
      const int64_t taps = inputs * level->height * level->width;
      weights.emplace_back(blocks * taps);
      for (int64_t o = 0; o < level->outputs; ++o)
        for (int64_t tap = 0; tap < taps; ++tap)
          weights.back()[o / LANES * taps + tap][o % LANES] = number(level->weight[o * taps + tap]);
    }
    for (int64_t c = 0; c < inputs; ++c)
      for (int lane = 0; lane < LANES; ++lane) {
        const int32_t from = (per_group < LANES ? lane / per_group * inputs + c : c % LANES);
        picks[c].pair[0][lane] = std::min(from, 2 * LANES - 1);
        picks[c].pair[1][lane] = std::max(from - 2 * LANES, 0);
        picks[c].join[lane] = from < 2 * LANES ? lane : lane + LANES;
      }
  }

  // [inputs, rows, width], zero where the map ends.
  void pack(int64_t n, int64_t block, int64_t top, int64_t rows, Floats* packed) const {
    const int64_t plane = rows * width, first = block * LANES / per_group * inputs;
    const int64_t sources = per_group < LANES ? span / LANES : 1;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < width; ++q) {
        const int64_t y = top + r, x = q - frame.pad_x;
        Floats* to = packed + r * width + q;
        if (y < 0 || y >= call.height || x < 0 || x >= call.width) {
          for (int64_t c = 0; c < inputs; ++c) to[c * plane] = Floats{};
          continue;
        }
        const T* pixel = call.pixel(n, y, x) + first;
        if (sources == 1) {
          for (int64_t c = 0; c < inputs; ++c)
            to[c * plane] = __builtin_shuffle(load(pixel + c / LANES * LANES), picks[c].pair[0]);
        } else if (sources == 2) {
          const Floats a = load(pixel), b = load(pixel + LANES);
          for (int64_t c = 0; c < inputs; ++c)
            to[c * plane] = __builtin_shuffle(a, b, picks[c].pair[0]);
        } else {
          const Floats a = load(pixel), b = load(pixel + LANES);
          const Floats d = load(pixel + 2 * LANES), e = load(pixel + 3 * LANES);
          for (int64_t c = 0; c < inputs; ++c)
            to[c * plane] = __builtin_shuffle(__builtin_shuffle(a, b, picks[c].pair[0]),
                                              __builtin_shuffle(d, e, picks[c].pair[1]),
                                              picks[c].join);
        }
      }
  }

  // One row of taps, for one or two rows of the output that both want these pixels.
  template <int COUNT, bool UPPER, bool LOWER>
  static void add(const Floats* x, const Floats* upper, const Floats* lower, int64_t taps,
                  int64_t step, int64_t stride, Floats (&sums)[2][COUNT]) {
    for (int64_t k = 0; k < taps; ++k, x += step) {
      Floats a, b;
      if constexpr (UPPER) a = upper[k];
      if constexpr (LOWER) b = lower[k];
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) {
        const Floats pixel = x[i * stride];
        if constexpr (UPPER) sums[0][i] += a * pixel;
        if constexpr (LOWER) sums[1][i] += b * pixel;
      }
    }
  }

  // COUNT neighbouring pixels of a row of the output and, `apart` rows of taps on, of the next one.
  template <int COUNT, int64_t STRIDE>
  void sum(const Level<T>& level, const Floats* x, const Floats* w, Floats bias, int64_t plane,
           int64_t apart, Floats (*out)[PIXELS]) const {
    const int64_t height = level.height, taps = level.width, step = call.dilation_x;
    const int64_t stride = STRIDE ? STRIDE : call.stride_x, row = call.dilation_y * width;
    Floats sums[2][COUNT];
    for (auto& line : sums)
      for (auto& one : line) one = bias;
    for (int64_t c = 0; c < inputs; ++c, x += plane, w += height * taps)
      for (int64_t k = 0; k < height + apart; ++k) {
        const Floats *at = x + k * row, *upper = w + k * taps, *lower = upper - apart * taps;
        const bool above = k < height, below = apart && k >= apart;
        if (above && below)
          add<COUNT, true, true>(at, upper, lower, taps, step, stride, sums);
        else if (above)
          add<COUNT, true, false>(at, upper, lower, taps, step, stride, sums);
        else if (below)
          add<COUNT, false, true>(at, upper, lower, taps, step, stride, sums);
      }
    for (int j = 0; j < 2; ++j)
      for (int i = 0; i < COUNT; ++i) out[j][i] = sums[j][i];
  }

  template <int COUNT, typename... Rest>
  void sum_of(int64_t count, Rest... rest) const {
    if (count < COUNT) {
      if constexpr (COUNT > 1) sum_of<COUNT / 2>(count, rest...);
    } else if (call.stride_x == 1) {
      sum<COUNT, 1>(rest...);
    } else if (call.stride_x == 2) {
      sum<COUNT, 2>(rest...);
    } else {
      sum<COUNT, 0>(rest...);
    }
  }

  int64_t packed_rows(int64_t rows) const { return (rows - 1) * call.stride_y + frame.reach_y; }

  // Rows y0 to y1 of the output of an image.
  void compute(int64_t n, int64_t y0, int64_t y1, Floats* packed) const {
    const int64_t rows = packed_rows(y1 - y0), plane = rows * width;
    const bool pairs = call.stride_y % call.dilation_y == 0;
    for (int64_t b = 0; b < blocks; ++b) {
      pack(n, b, y0 * call.stride_y - frame.pad_y, rows, packed);
      for (size_t l = 0; l < levels.size(); ++l) {
        const Level<T>& level = *levels[l];
        const Floats* w = weights[l].get() + b * inputs * level.height * level.width;
        const Floats* x = packed + (frame.pad_y - level.pad_y) * width + frame.pad_x - level.pad_x;
        const Floats bias = level.bias ? load(level.bias + b * LANES) : Floats{};
        for (int64_t y = y0, step; y < y1; y += step, x += step * call.stride_y * width) {
          step = pairs && y + 1 < y1 ? 2 : 1;
          const int64_t apart = step == 2 ? call.stride_y / call.dilation_y : 0;
          for (int64_t q = 0, count; q < call.out_width; q += count) {
            for (count = PIXELS; count > call.out_width - q;) count /= 2;
            Floats sums[2][PIXELS];
            sum_of<PIXELS>(count, level, x + q * call.stride_x, w, bias, plane, apart, sums);
            for (int64_t j = 0; j < step; ++j)
              for (int64_t i = 0; i < count; ++i)
                store(call.output(n, y + j, q + i) + level.first + b * LANES, sums[j][i]);
          }
        }
      }
    }
  }
};

// Whether the levels fit; computes them if there is something to compute.
template <typename T>
bool by_lanes(const Call<T>& call) {
  std::vector<Lanes<T>> all;
  for (auto& alike : sorted(call, [](auto& a, auto& b) { return a.groups == b.groups && a.outputs == b.outputs; }))
    all.emplace_back(call, alike);
  for (const auto& lanes : all)
    if (!lanes.fits()) return false;
  if (!call.x) return true;
  int64_t row = 0, reach = 0, most = 0;
  for (auto& lanes : all) {
    lanes.prepare();
    row = std::max(row, lanes.inputs * lanes.width);
    reach = std::max(reach, lanes.frame.reach_y);
  }
  const int64_t near = NEAR / int64_t(sizeof(Floats)) / row;  // packed rows
  const int64_t rows = call.rows_at_once((near - reach) / call.stride_y + 1, 2);
  for (const auto& lanes : all)
    most = std::max(most, lanes.inputs * lanes.packed_rows(rows) * lanes.width);
#pragma omp parallel num_threads(call.threads)
  {
    const Buffer<Floats> packed(most);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t n = 0; n < call.images; ++n)
      for (int64_t y = 0; y < call.out_height; y += rows)
        for (const auto& lanes : all) lanes.compute(n, y, std::min(call.out_height, y + rows), packed.get());
  }
  return true;
}
