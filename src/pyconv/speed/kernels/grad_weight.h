// The gradient of the weights, by lanes: the lanes of a vector are output channels, as forwards.
//
// Every weight is a sum over the pixels of the map, of what comes back to its output times what it
// saw. A row of these sums stays in registers while a row of the map goes by.

#if defined(__AVX512F__)
constexpr int SUMS = 24;  // of 32 registers
#else
constexpr int SUMS = 8;
#endif

template <typename T>
struct Gradient : Lanes<T> {
  using Lanes<T>::call;
  using Lanes<T>::levels;
  using Lanes<T>::frame;
  using Lanes<T>::blocks;
  using Lanes<T>::inputs;
  using Lanes<T>::together;
  using Lanes<T>::span;
  using Lanes<T>::width;
  Ints from;                     // channel of a lane
  std::vector<int64_t> offsets;  // of each level's sums: [blocks, height, width, inputs]
  int64_t count = 0;

  using Lanes<T>::Lanes;

  void prepare() {
    this->arrange();
    for (int lane = 0; lane < LANES; ++lane) from[this->order[lane]] = lane;
    for (auto* level : levels) {
      offsets.push_back(count);
      count += blocks * this->taps(*level);
    }
  }

  // COUNT sums that lie side by side in a row of taps, over a row of pixels.
  template <int COUNT, int GROUPS>
  void sum(const float* x, const Floats* grad, int64_t pixels, Floats* to) const {
    Floats sums[COUNT];
    for (int i = 0; i < COUNT; ++i) sums[i] = to[i];
    const int64_t stride = call.stride_x * span;
    for (int64_t q = 0; q < pixels; ++q, x += stride) {
      const Floats one = grad[q];
#pragma GCC unroll 24
      for (int i = 0; i < COUNT; ++i) sums[i] += one * repeated<GROUPS>(x + i * GROUPS);
    }
    for (int i = 0; i < COUNT; ++i) to[i] = sums[i];
  }

  int64_t packed_rows(int64_t rows) const { return (rows - 1) * call.stride_y + frame.reach_y; }

  // Rows y0 to y1 of the gradient of an image.
  void compute(int64_t n, int64_t y0, int64_t y1, float* packed, Floats* sums) const {
    const int64_t rows = packed_rows(y1 - y0), top = y0 * call.stride_y - frame.pad_y;
    Floats* grad = reinterpret_cast<Floats*>(packed + rows * width * span);
    for (int64_t b = 0, last = -1; b < blocks; ++b) {
      const int64_t channel = this->channel_of(b);
      for (int64_t r = 0; channel != last && r < rows; ++r)
        this->pack(n, top + r, channel, packed + r * width * span);
      last = channel;
      for (size_t l = 0; l < levels.size(); ++l) {
        const Level<T>& level = *levels[l];
        // Beside each other as long as no dilation lies between the taps.
        const int64_t runs = call.dilation_x == 1 ? 1 : level.width;
        const int64_t line = level.width * inputs;
        const int64_t corner = (frame.pad_y - level.pad_y) * width + frame.pad_x - level.pad_x;
        for (int64_t y = y0; y < y1; ++y) {
          for (int64_t q = 0; q < call.out_width; ++q)
            grad[q] = __builtin_shuffle(load(call.output(n, y, q) + level.first + b * LANES),
                                        from);
          Floats* to = sums + offsets[l] + b * this->taps(level);
          for (int64_t k = 0; k < level.height; ++k)
            for (int64_t run = 0; run < runs; ++run, to += line / runs) {
              const int64_t row = (y - y0) * call.stride_y + k * call.dilation_y;
              const float* x = packed + (corner + row * width + run * call.dilation_x) * span;
              for (int64_t tap = 0; tap < line / runs;)
                sized<SUMS, LANES>(line / runs - tap, together, [&](auto some, auto groups) {
                  sum<some, groups>(x + tap * groups, grad, call.out_width, to + tap);
                  tap += some;
                });
            }
        }
      }
    }
  }

  // Adds up the sums of all threads, `apart` each from the next, in order.
  void collect(const Floats* sums, int64_t apart) const {
    for (size_t l = 0; l < levels.size(); ++l) {
      const Level<T>& level = *levels[l];
      const int64_t area = level.height * level.width;
      T* to = const_cast<T*>(level.weight);
      for (int64_t o = 0; o < level.outputs; ++o)
        for (int64_t c = 0; c < inputs; ++c)
          for (int64_t tap = 0; tap < area; ++tap) {
            const int64_t at = offsets[l] + (o / LANES * area + tap) * inputs + c;
            float sum = 0;
            for (int64_t t = 0; t < call.threads; ++t)
              sum += sums[t * apart + at][this->order[o % LANES]];
            set(*to++, sum);
          }
    }
  }
};

// Whether the levels fit; computes into their weights, which are those of the gradient, if there
// is something to compute. `out` is the gradient of the map.
template <typename T>
bool grad_weight(const Call<T>& call) {
  std::vector<Gradient<T>> all;
  for (auto& levels : grouped(call.all(), alike<T>)) all.emplace_back(call, levels);
  for (const auto& one : all)
    if (!one.fits()) return false;
  if (!call.x) return true;
  int64_t row = 0, reach = 0, most = 0, sums = 0;
  for (auto& one : all) {
    one.prepare();
    sums += one.count;
    row = std::max(row, one.span * one.width);
    reach = std::max(reach, one.frame.reach_y);
  }
  const int64_t near = NEAR / int64_t(sizeof(float)) / row;  // packed rows
  const int64_t rows =
      std::clamp<int64_t>((near - reach) / call.stride_y + 1, 1, call.out_height);
  for (const auto& one : all)
    most = std::max(most, one.packed_rows(rows) * one.width * one.span);
  most = (most + LANES - 1) / LANES * LANES + call.out_width * LANES;
  const int64_t lines = call.images * call.out_height;
  // Of each thread twice: of all its images, and of one, so that few numbers meet a large sum.
  Floats* summed = room<Floats>(0, 2 * call.threads * sums);
  std::fill(summed, summed + 2 * call.threads * sums, Floats{});
#pragma omp parallel for num_threads(call.threads) schedule(static, 1)
  for (int64_t t = 0; t < call.threads; ++t) {
    float* packed = room<float>(1, most);
    const int64_t end = lines * (t + 1) / call.threads;
    for (int64_t line = lines * t / call.threads, next; line < end; line = next) {
      const int64_t n = line / call.out_height, y = line % call.out_height;
      next = std::min({line + rows, (n + 1) * call.out_height, end});
      Floats *whole = summed + 2 * t * sums, *image = whole + sums, *to = image;
      for (const auto& one : all) {
        one.compute(n, y, y + next - line, packed, to);
        to += one.count;
      }
      if (next % call.out_height && next < end) continue;
      for (int64_t i = 0; i < sums; ++i) whole[i] += image[i];
      std::fill(image, image + sums, Floats{});
    }
  }
  for (const auto& one : all) {
    one.collect(summed, 2 * sums);
    summed += one.count;
  }
  return true;
}
