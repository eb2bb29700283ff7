// Batch normalisation in training, with the sum and the rectifier that follow it, and the way back.

// As norms.py fills it. Of [rows, channels]: x, shortcut, out and their gradients. Of [channels]:
// the rest. Null where there is none.
template <typename T>
struct Norm {
  const T *x, *shortcut, *grad;
  T *out, *grad_x, *grad_shortcut;
  const float *weight, *bias;
  float *mean, *deviation, *running_mean, *running_variance, *grad_weight, *grad_bias;
  int64_t rows, channels, relu, threads;
  double epsilon, momentum;
};

constexpr int64_t AT_ONCE = 4;    // rows that are added up side by side
constexpr int64_t IN_FLOAT = 64;  // rows that are added up in float before they go to double

// Adds up two numbers of every row and channel, over all rows: `term(row, channel, a, b)` adds a
// vector's share to a and b. Threads take their rows in order, so the sums are the same each time.
template <typename T, typename Term>
void add_up(const Norm<T>& norm, int64_t from, int64_t to, double* sums, Term term) {
  const int64_t channels = norm.channels;
  std::vector<float> near(2 * channels + LANES);
  float *a = near.data(), *b = a + channels;
  std::fill(sums, sums + 2 * channels, 0);
  for (int64_t start = from; start < to; start += IN_FLOAT) {
    const int64_t end = std::min(start + IN_FLOAT, to);
    std::fill(a, a + 2 * channels, 0);
    for (int64_t row = start, count; row < end; row += count) {
      count = std::min(AT_ONCE, end - row);
      for (int64_t c = 0; c < channels; c += LANES) {
        Floats first = load(a + c), second = load(b + c);
        for (int64_t r = 0; r < count; ++r) term(row + r, c, first, second);
        store(a + c, first);
        store(b + c, second);
      }
    }
    for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += a[c];
  }
}

template <typename T>
struct Sums {
  const Norm<T>& norm;
  std::vector<double> all;  // [threads, 2, channels]

  explicit Sums(const Norm<T>& norm) : norm(norm), all(norm.threads * 2 * norm.channels) {}
  double* of(int64_t thread) { return all.data() + thread * 2 * norm.channels; }
  double total(int64_t which, int64_t c) const {
    double sum = 0;
    for (int64_t t = 0; t < norm.threads; ++t) sum += all[(2 * t + which) * norm.channels + c];
    return sum;
  }
};

template <typename T>
int64_t forwards(const Norm<T>& norm) {
  const int64_t channels = norm.channels, rows = norm.rows;
  // Subtracted from all numbers, so that the sum of squares loses nothing to a large mean.
  std::vector<float> near(channels), scale(channels), shift(channels);
  for (int64_t n = 0; n < 16; ++n)
    for (int64_t c = 0; c < channels; ++c)
      near[c] += number(norm.x[rows * n / 16 * channels + c]) / 16;
  Sums<T> sums(norm);
#pragma omp parallel num_threads(norm.threads)
  {
#pragma omp for schedule(static, 1)
    for (int64_t t = 0; t < norm.threads; ++t)
      add_up(norm, rows * t / norm.threads, rows * (t + 1) / norm.threads, sums.of(t),
             [&](int64_t row, int64_t c, Floats& a, Floats& b) {
               const Floats far = load(norm.x + row * channels + c) - load(&near[c]);
               a += far;
               b += far * far;
             });
#pragma omp single
    for (int64_t c = 0; c < channels; ++c) {
      const double off = sums.total(0, c) / rows, mean = near[c] + off;
      double variance = sums.total(1, c) / rows - off * off;
      if (variance < 0) variance = 0;  // NaN stays NaN
      norm.mean[c] = mean;
      norm.deviation[c] = 1 / std::sqrt(variance + norm.epsilon);
      norm.running_mean[c] += norm.momentum * (mean - norm.running_mean[c]);
      norm.running_variance[c] +=
          norm.momentum * (variance * rows / (rows - 1) - norm.running_variance[c]);
      scale[c] = norm.weight[c] * norm.deviation[c];
      shift[c] = norm.bias[c] - norm.mean[c] * scale[c];
    }
#pragma omp for schedule(static, 1)
    for (int64_t t = 0; t < norm.threads; ++t)
      for (int64_t row = rows * t / norm.threads; row < rows * (t + 1) / norm.threads; ++row)
        for (int64_t c = 0; c < channels; c += LANES) {
          const int64_t at = row * channels + c;
          Floats v = load(norm.x + at) * load(&scale[c]) + load(&shift[c]);
          if (norm.shortcut) v += load(norm.shortcut + at);
          store(norm.out + at, norm.relu ? rectified(v) : v);
        }
  }
  return 1;
}

template <typename T>
int64_t backwards(const Norm<T>& norm) {
  const int64_t channels = norm.channels, rows = norm.rows;
  std::vector<float> scale(channels), shift(channels), slope(channels), level(channels);
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = norm.weight[c] * norm.deviation[c];
    shift[c] = norm.bias[c] - norm.mean[c] * scale[c];
  }
  // What comes through the rectifier. The sum with a shortcut cannot be had again from x alone.
  const auto through = [&](int64_t at, int64_t c) {
    const Floats grad = load(norm.grad + at);
    if (!norm.relu) return grad;
    const Floats out = norm.out ? load(norm.out + at)
                                : load(norm.x + at) * load(&scale[c]) + load(&shift[c]);
    return out <= 0 ? Floats{} : grad;
  };
  Sums<T> sums(norm);
#pragma omp parallel num_threads(norm.threads)
  {
#pragma omp for schedule(static, 1)
    for (int64_t t = 0; t < norm.threads; ++t)
      add_up(norm, rows * t / norm.threads, rows * (t + 1) / norm.threads, sums.of(t),
             [&](int64_t row, int64_t c, Floats& a, Floats& b) {
               const int64_t at = row * channels + c;
               const Floats grad = through(at, c);
               if (norm.grad_shortcut) store(norm.grad_shortcut + at, grad);
               a += grad;
               b += grad * (load(norm.x + at) - load(norm.mean + c));
             });
#pragma omp single
    for (int64_t c = 0; c < channels; ++c) {
      const double sum = sums.total(0, c), product = sums.total(1, c);
      const double deviation = norm.deviation[c];
      norm.grad_bias[c] = sum;
      norm.grad_weight[c] = product * deviation;
      slope[c] = -scale[c] * deviation * deviation * product / rows;
      level[c] = -scale[c] * sum / rows - norm.mean[c] * double(slope[c]);
    }
#pragma omp for schedule(static, 1)
    for (int64_t t = 0; t < norm.threads; ++t)
      for (int64_t row = rows * t / norm.threads; row < rows * (t + 1) / norm.threads; ++row)
        for (int64_t c = 0; c < channels; c += LANES) {
          const int64_t at = row * channels + c;
          const Floats grad = norm.grad_shortcut ? load(norm.grad_shortcut + at) : through(at, c);
          store(norm.grad_x + at, grad * load(&scale[c]) + load(norm.x + at) * load(&slope[c]) +
                                    load(&level[c]));
        }
  }
  return 1;
}
