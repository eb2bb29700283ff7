// The sum of several maps in one pass over them.

// As direct.py fills it.
template <typename T>
struct Sum {
  T* out;
  int64_t count, threads, maps;  // numbers of a map
  const T* map[1];               // as many as there are maps
};

template <typename T>
void add_up(const Sum<T>& sum) {
  constexpr int64_t PIECE = 64 * LANES;
  const int64_t whole = sum.count / LANES * LANES;
#pragma omp parallel for num_threads(sum.threads) schedule(static)
  for (int64_t piece = 0; piece < whole; piece += PIECE)
    for (int64_t i = piece; i < std::min(piece + PIECE, whole); i += LANES) {
      Floats total = load(sum.map[0] + i);
      for (int64_t m = 1; m < sum.maps; ++m) total += load(sum.map[m] + i);
      store(sum.out + i, total);
    }
  for (int64_t i = whole; i < sum.count; ++i) {
    float total = 0;
    for (int64_t m = 0; m < sum.maps; ++m) total += number(sum.map[m][i]);
    set(sum.out[i], total);
  }
}

extern "C" void add_up_float32(const Sum<float>* sum) { add_up(*sum); }
extern "C" void add_up_bfloat16(const Sum<Bfloat16>* sum) { add_up(*sum); }
