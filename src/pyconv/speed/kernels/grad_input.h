// The gradient of the input, by lanes: the lanes of a vector are input channels.
//
// A level turned round: the outputs of a group are what is read, its inputs what is written. Under
// a stride the pixels of the input fall into classes that see different taps of the kernel, and
// each class is a convolution without a stride. The levels are added up before they are written.

#if defined(__AVX512F__)
constexpr int ACROSS = 28;  // pixels of a row whose sums stay in registers
#else
constexpr int ACROSS = 12;
#endif

template <typename T>
struct Turned {
  // A row of the gradient of the map, and the taps through which it comes.
  struct Row {
    const float* packed;
    const Floats* weights;
  };

  const Call<T>& call;
  const Level<T>& level;
  int64_t inputs, outputs, blocks;  // of a group; vectors of input channels
  int64_t together, span;           // groups of a block; their outputs
  int64_t margin, width;            // zeros beside a packed row; its pixels
  Floats* weights = nullptr;        // [blocks, height, width, outputs], class after class
  Ints order, pick;                 // from lanes to channels; how a vector is packed

  Turned(const Call<T>& call, const Level<T>& level)
      : call(call),
        level(level),
        inputs(call.channels / level.groups),
        outputs(level.per_group()),
        blocks(call.channels / LANES),
        together(std::max<int64_t>(1, LANES / inputs)),
        span(together * outputs),
        margin(level.width / call.stride_x + 1),
        width(call.out_width + 2 * margin) {
    const int64_t part = std::min<int64_t>(span, LANES);
    for (int n = 0; n < LANES; ++n) {
      order[together == 1 ? n : n % together * inputs + n / together] = n;
      const int64_t at = n % part;
      pick[n] = together == 1 ? n : n - at + at % together * outputs + at / together;
    }
  }

  bool fits() const {
    const bool whole = inputs < LANES ? LANES % inputs == 0 : inputs % LANES == 0;
    const bool parts = span < LANES ? LANES % span == 0 : span % LANES == 0;
    return whole && parts && (together == 1 || span <= LANES) && call.channels % LANES == 0 &&
           level.outputs % LANES == 0;
  }

  // Taps of a row that the pixels of a class see, the first of which is that many pixels on.
  int64_t taps(int64_t first) const {
    return first < level.width ? (level.width - 1 - first) / call.stride_x + 1 : 0;
  }
  // How many taps there are of the classes before.
  int64_t before(int64_t first) const {
    int64_t count = 0;
    for (int64_t one = 0; one < first; ++one) count += taps(one);
    return count;
  }

  int64_t line() const { return level.width * outputs; }
  int64_t size() const { return blocks * level.height * line(); }

  void fill(int64_t block) const {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const int64_t channel = block * LANES + lane, group = channel / inputs;
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t y = 0; y < level.height; ++y)
          for (int64_t x = 0; x < level.width; ++x) {
            const int64_t first = x % call.stride_x;
            // The last tap of a class meets the first pixel.
            const int64_t tap = before(first) + taps(first) - 1 - x / call.stride_x;
            const int64_t output = group * outputs + o;
            const int64_t from =
                ((output * inputs + channel % inputs) * level.height + y) * level.width + x;
            weights[(block * level.height + y) * line() + tap * outputs + o][order[lane]] =
                number(level.weight[from]);
          }
    }
  }

  // A row of the gradient: [outputs of all / span, width, span], zero in the margins.
  template <int SPAN>
  void pack(int64_t n, int64_t y, float* to) const {
    std::memset(to, 0, width * level.outputs * sizeof(float));
    for (int64_t q = 0; q < call.out_width; ++q) {
      const T* from = call.output(n, y, q) + level.first;
      for (int64_t c = 0; c < level.outputs; c += LANES) {
        const Floats v = __builtin_shuffle(load(from + c), pick);
        for (int64_t part = 0; part < LANES; part += SPAN) {
          const int64_t at = c + part, apart = span > LANES ? span : SPAN;
          std::memcpy(to + (at / apart * width + margin + q) * apart + at % apart,
                      (const float*)&v + part, SPAN * sizeof(float));
        }
      }
    }
  }
  void pack_row(int64_t n, int64_t y, float* to) const {
    if (span >= LANES) return pack<LANES>(n, y, to);
    if (span == 8) return pack<8>(n, y, to);
    if (span == 4) return pack<4>(n, y, to);
    if (span == 2) return pack<2>(n, y, to);
    return pack<1>(n, y, to);
  }

  // The rows of the map that are packed for rows y0 to y1 of the input.
  std::pair<int64_t, int64_t> rows_for(int64_t y0, int64_t y1) const {
    const int64_t lowest = y0 + level.pad_y - level.height + 1;
    const int64_t from = lowest > 0 ? (lowest - 1) / call.stride_y + 1 : 0;
    return {from, std::min(call.out_height, (y1 - 1 + level.pad_y) / call.stride_y + 1)};
  }

  // What comes to row y of the input, from packed rows of the map that begin with row `first`.
  std::vector<Row> rows_of(int64_t y, const float* packed, int64_t first) const {
    std::vector<Row> rows;
    for (int64_t tap = 0; tap < level.height; ++tap) {
      const int64_t down = y + level.pad_y - tap, row = down / call.stride_y;
      if (down < 0 || down % call.stride_y || row >= call.out_height) continue;
      rows.push_back({packed + (row - first) * width * level.outputs, weights + tap * line()});
    }
    return rows;
  }

  // Adds to COUNT pixels what comes through so many taps of each row.
  template <int COUNT, int GROUPS>
  void add(const std::vector<Row>& rows, int64_t taps, int64_t at, int64_t skipped,
           Floats* totals) const {
    Floats sums[COUNT] = {};
    for (const Row& row : rows) {
      const float* x = row.packed + at;
      const Floats* w = row.weights + skipped;
      for (int64_t tap = 0; tap < taps; ++tap, x += span)
        for (int64_t o = 0; o < outputs; ++o) {
          const Floats one = *w++;
#pragma GCC unroll 28
          for (int i = 0; i < COUNT; ++i)
            sums[i] += one * repeated<GROUPS>(x + o * GROUPS + i * span);
        }
    }
    for (int i = 0; i < COUNT; ++i) totals[i] += __builtin_shuffle(sums[i], order);
  }

  // To `count` pixels of class c from the q-th on, of a block of input channels.
  void add_block(int64_t count, const std::vector<Row>& rows, int64_t block, int64_t c, int64_t q,
                 Floats* totals) const {
    const int64_t first = (c + level.pad_x) % call.stride_x, seen = taps(first);
    if (!seen) return;
    const int64_t last = first + (seen - 1) * call.stride_x;
    const int64_t pixel = margin + q + (c + level.pad_x - last) / call.stride_x;
    const int64_t at = (block * LANES / inputs / together * width + pixel) * span;
    const int64_t skipped = block * level.height * line() + before(first) * outputs;
    sized<ACROSS, LANES>(count, together, [&](auto pixels, auto groups) {
      add<pixels, groups>(rows, seen, at, skipped, totals);
    });
  }
};

// Whether the levels fit; computes if there is something to compute. `x` is what is written, the
// gradient of the input, and `out` that of the map.
template <typename T>
int64_t grad_input(const Call<T>& call) {
  if (call.dilation_y > 1 || call.dilation_x > 1) return 0;
  std::vector<Turned<T>> levels;
  int64_t weights = 0, row = 0, reach = 0;
  for (int64_t l = 0; l < call.levels; ++l) {
    levels.emplace_back(call, call.level[l]);
    if (!levels.back().fits()) return 0;
    weights += levels.back().size();
    row += levels.back().width * call.level[l].outputs;
    reach = std::max(reach, call.level[l].height / call.stride_y + 2);
  }
  if (!call.x) return 1;
  Floats* place = room<Floats>(0, weights);
  for (auto& level : levels) {
    level.weights = place;
    place += level.size();
  }
  const int64_t near = NEAR / int64_t(sizeof(float)) / row - reach;  // packed rows
  int64_t rows = std::min(call.height, std::max<int64_t>(near, 1) * call.stride_y);
  while (call.images * ((call.height - 1) / rows + 1) < 4 * call.threads && rows > 4 * reach)
    rows = (rows + 1) / 2;
  const int64_t packed_size = row * (rows / call.stride_y + reach + 1);
#pragma omp parallel num_threads(call.threads)
  {
    for (const auto& level : levels) {
#pragma omp for schedule(dynamic) nowait
      for (int64_t block = 0; block < level.blocks; ++block) level.fill(block);
    }
#pragma omp barrier
    float* packed = room<float>(1, packed_size);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t n = 0; n < call.images; ++n)
      for (int64_t top = 0; top < call.height; top += rows) {
        const int64_t end = std::min(call.height, top + rows);
        std::vector<std::pair<const float*, int64_t>> places;  // of each level, and its first row
        float* to = packed;
        for (const auto& level : levels) {
          const auto [from, until] = level.rows_for(top, end);
          places.push_back({to, from});
          for (int64_t y = from; y < until; ++y, to += level.width * level.level.outputs)
            level.pack_row(n, y, to);
        }
        for (int64_t y = top; y < end; ++y) {
          std::vector<std::vector<typename Turned<T>::Row>> seen;
          for (size_t l = 0; l < levels.size(); ++l)
            seen.push_back(levels[l].rows_of(y, places[l].first, places[l].second));
          for (int64_t c = 0; c < std::min(call.stride_x, call.width); ++c) {
            const int64_t pixels = (call.width - 1 - c) / call.stride_x + 1;
            for (int64_t block = 0; block < call.channels / LANES; ++block)
              for (int64_t q = 0, count; q < pixels; q += count) {
                for (count = ACROSS; count > pixels - q;) count /= 2;
                Floats totals[ACROSS] = {};
                for (size_t l = 0; l < levels.size(); ++l)
                  levels[l].add_block(count, seen[l], block, c, q, totals);
                T* pixel = const_cast<T*>(call.pixel(n, y, c + q * call.stride_x));
                for (int64_t i = 0; i < count; ++i)
                  store(pixel + i * call.stride_x * call.channels + block * LANES, totals[i]);
              }
          }
        }
      }
  }
  return 1;
}
