// Winograd: 3x3 kernels without a stride, two by two pixels of the output at once.
//
// Squares of 4x4 pixels of the input and kernels are transformed so that 16 products are left of
// 36, number by number; summed over the inputs, these are 16 products of matrices. Transformed back
// they are the outputs. Where a group has many channels, the transforms cost little beside that.
// Sums of many terms are as a rule nearer to the truth than the plain ones, which have more terms.
//
// Lavin and Gray 2015, arXiv 1509.09308.

struct Winograd {
  static constexpr int NUMBERS = 16, WIDE = 2;  // of a square; vectors of outputs at once
  static constexpr int64_t LEAST = 64;          // inputs of a group for which it is worth while
  static constexpr int64_t SQUARES = 28;        // at once: they stay near, and weights are used well

  using Square = Floats[4][4];
  // A square of the output: its image and its first pixel.
  struct Corner {
    int64_t n, y, q;
  };

  const Call<float>& call;
  const Level<float>& level;
  int64_t inputs, blocks;       // of a group; blocks of WIDE vectors of all outputs
  int64_t down, across, count;  // squares of an image, and of all
  int64_t line;                 // from square to square: so that they do not meet in the cache
  Floats* weights = nullptr;    // [blocks, NUMBERS, inputs, WIDE]

  Winograd(const Call<float>& call, const Level<float>& level)
      : call(call),
        level(level),
        inputs(call.channels / level.groups),
        blocks(level.outputs / LANES / WIDE),
        down((call.out_height + 1) / 2),
        across((call.out_width + 1) / 2),
        count(call.images * down * across),
        line(call.channels + LANES) {}

  static bool suits(const Call<float>& call, const Level<float>& level) {
    const int64_t inputs = call.channels / level.groups;
    const int64_t steps[] = {call.stride_y, call.stride_x, call.dilation_y, call.dilation_x};
    return std::all_of(steps, steps + 4, [](int64_t step) { return step == 1; }) &&
           level.height == 3 && level.width == 3 && inputs >= LEAST && inputs % LANES == 0 &&
           level.per_group() % (WIDE * LANES) == 0;
  }

  int64_t size() const { return blocks * NUMBERS * inputs * WIDE; }

  // Rows or columns of a kernel.
  static void transform(const float (&k)[3], float* to, int apart) {
    to[0] = k[0];
    to[apart] = (k[0] + k[1] + k[2]) / 2;
    to[2 * apart] = (k[0] - k[1] + k[2]) / 2;
    to[3 * apart] = k[2];
  }

  void fill(int64_t block) const {
    const float* from = level.weight + block * WIDE * LANES * inputs * 9;
    for (int64_t output = 0; output < WIDE * LANES; ++output)
      for (int64_t c = 0; c < inputs; ++c, from += 9) {
        float half[4][3], all[4][4];
        for (int j = 0; j < 3; ++j) transform({from[j], from[3 + j], from[6 + j]}, &half[0][j], 3);
        for (int i = 0; i < 4; ++i) transform(half[i], all[i], 1);
        for (int p = 0; p < NUMBERS; ++p) {
          Floats* to = weights + ((block * NUMBERS + p) * inputs + c) * WIDE;
          to[output / LANES][output % LANES] = all[p / 4][p % 4];
        }
      }
  }

  Corner corner(int64_t square) const {
    return {square / across / down, square / across % down * 2, square % across * 2};
  }

  // Squares of the input, one after the other from `first` on: [NUMBERS, many, line].
  void enter(int64_t first, int64_t many, float* to, const float* zeros) const {
    for (int64_t t = 0; t < many; ++t) {
      const Corner at = corner(first + t);
      const float* pixels[NUMBERS];
      for (int i = 0; i < NUMBERS; ++i) {
        const int64_t y = at.y + i / 4 - level.pad_y, q = at.q + i % 4 - level.pad_x;
        const bool inside = y >= 0 && y < call.height && q >= 0 && q < call.width;
        pixels[i] = inside ? call.pixel(at.n, y, q) : zeros;
      }
      for (int64_t c = 0; c < call.channels; c += LANES) {
        Square d, half;
        for (int i = 0; i < NUMBERS; ++i) d[i / 4][i % 4] = load(pixels[i] + c);
        for (int j = 0; j < 4; ++j) {
          half[0][j] = d[0][j] - d[2][j];
          half[1][j] = d[1][j] + d[2][j];
          half[2][j] = d[2][j] - d[1][j];
          half[3][j] = d[1][j] - d[3][j];
        }
        for (int i = 0; i < 4; ++i) {
          const Floats(&row)[4] = half[i];
          const Floats numbers[] = {row[0] - row[2], row[1] + row[2], row[2] - row[1],
                                    row[1] - row[3]};
          for (int j = 0; j < 4; ++j) store(to + ((i * 4 + j) * many + t) * line + c, numbers[j]);
        }
      }
    }
  }

  // One number of so many squares, summed over the inputs: [many, WIDE].
  template <int COUNT = PIXELS>
  void multiply(int64_t many, const float* x, const Floats* w, Floats* out) const {
    if constexpr (COUNT > 1)
      if (many < COUNT) return multiply<COUNT / 2>(many, x, w, out);
    Floats sums[COUNT][WIDE] = {};
    for (int64_t c = 0; c < inputs; ++c, w += WIDE) {
      const Floats a = w[0], b = w[1];
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) {
        const Floats number = x[i * line + c] - Floats{};
        sums[i][0] += a * number;
        sums[i][1] += b * number;
      }
    }
    std::memcpy(out, sums, sizeof sums);
    if (many > COUNT) multiply(many - COUNT, x + COUNT * line, w - inputs * WIDE, out + COUNT * WIDE);
  }

  // From the sums, [NUMBERS, many, WIDE], to the outputs of a block.
  void leave(int64_t first, int64_t many, int64_t block, const Floats* sums) const {
    for (int64_t t = 0; t < many; ++t) {
      const Corner at = corner(first + t);
      for (int v = 0; v < WIDE; ++v) {
        const int64_t output = (block * WIDE + v) * LANES;
        const Floats bias = level.bias ? load(level.bias + output) : Floats{};
        Square m, half;
        for (int p = 0; p < NUMBERS; ++p) m[p / 4][p % 4] = sums[(p * many + t) * WIDE + v];
        for (int j = 0; j < 4; ++j) {
          half[0][j] = m[0][j] + m[1][j] + m[2][j];
          half[1][j] = m[1][j] - m[2][j] - m[3][j];
        }
        for (int i = 0; i < 2 && at.y + i < call.out_height; ++i) {
          const Floats(&row)[4] = half[i];
          const Floats both[] = {row[0] + row[1] + row[2] + bias, row[1] - row[2] - row[3] + bias};
          for (int j = 0; j < 2 && at.q + j < call.out_width; ++j)
            store(call.output(at.n, at.y + i, at.q + j) + level.first + output,
                  call.relu ? rectified(both[j]) : both[j]);
        }
      }
    }
  }

  // Squares from `first` on, and blocks from `block` to `end`.
  void compute(int64_t first, int64_t many, int64_t block, int64_t end) const {
    float* entered = room<float>(1, NUMBERS * many * line + call.channels);
    float* zeros = entered + NUMBERS * many * line;
    std::fill(zeros, zeros + call.channels, 0);
    Floats* sums = room<Floats>(2, NUMBERS * many * WIDE);
    enter(first, many, entered, zeros);
    for (; block < end; ++block) {
      const int64_t group = block * WIDE * LANES / level.per_group();
      for (int p = 0; p < NUMBERS; ++p)
        multiply(many, entered + p * many * line + group * inputs,
                 weights + (block * NUMBERS + p) * inputs * WIDE, sums + p * many * WIDE);
      leave(first, many, block, sums);
    }
  }

  // As ByLanes::run(), but the weights are always kept: they are too many to pack in each call.
  void run(Floats* kept) {
    weights = kept;
    const int64_t chunks = (count - 1) / SQUARES + 1;
    const int64_t parts = chunks < call.threads ? std::min(call.threads, blocks) : 1;
#pragma omp parallel num_threads(call.threads)
    {
      if (!call.x) {
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; ++block) fill(block);
      } else {
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          for (int64_t part = 0; part < parts; ++part) {
            const int64_t first = chunk * SQUARES;
            compute(first, std::min(SQUARES, count - first), part * blocks / parts,
                    (part + 1) * blocks / parts);
          }
      }
    }
  }
};
