// What a convolution is asked for: levels of one pyramid.

constexpr int64_t NEAR = 768 << 10;  // bytes that stay in a core's own cache

// A grouped convolution whose outputs are channels `first`, `first + 1`, ... of those of the call.
template <typename T>
struct Level {
  const T *weight, *bias;  // [outputs, channels / groups, height, width]; [outputs] or null
  int64_t outputs, groups, height, width, pad_y, pad_x, first;

  int64_t per_group() const { return outputs / groups; }
};

// As direct.py fills it.
template <typename T>
struct Call {
  const T* x;  // [images, height, width, channels]
  T* out;      // [images, out_height, out_width, out_channels]
  int64_t images, height, width, channels, out_height, out_width, out_channels;
  int64_t stride_y, stride_x, dilation_y, dilation_x, threads, levels;
  const Level<T>* level;  // as many as there are levels

  std::vector<const Level<T>*> all() const {
    std::vector<const Level<T>*> all(levels);
    for (int64_t l = 0; l < levels; ++l) all[l] = &level[l];
    return all;
  }
  const T* pixel(int64_t n, int64_t y, int64_t q) const {
    return x + ((n * height + y) * width + q) * channels;
  }
  T* output(int64_t n, int64_t y, int64_t q) const {
    return out + ((n * out_height + y) * out_width + q) * out_channels;
  }
  int64_t reach_y(const Level<T>& l) const { return dilation_y * (l.height - 1) + 1; }
  int64_t reach_x(const Level<T>& l) const { return dilation_x * (l.width - 1) + 1; }

  // Rows of output to compute at once: at most so many, and enough strips for every thread.
  int64_t rows_at_once(int64_t most, int64_t unit) const {
    int64_t strips = (out_height - 1) / std::max(most, unit) + 1;
    while (images * strips < 4 * threads && strips * unit * 4 < out_height) ++strips;
    return ((out_height - 1) / strips / unit + 1) * unit;
  }
};

// The smallest frame that holds kernels which lie centre on centre, each with its padding.
struct Frame {
  int64_t pad_y = 0, pad_x = 0, reach_y = 0, reach_x = 0;

  template <typename T>
  Frame(const Call<T>& call, const std::vector<const Level<T>*>& levels) {
    for (auto* level : levels) {
      pad_y = std::max(pad_y, level->pad_y);
      pad_x = std::max(pad_x, level->pad_x);
    }
    for (auto* level : levels) {
      reach_y = std::max(reach_y, pad_y - level->pad_y + call.reach_y(*level));
      reach_x = std::max(reach_x, pad_x - level->pad_x + call.reach_x(*level));
    }
  }
};

// The levels, those that `alike` says belong together in one list.
template <typename T, typename Alike>
std::vector<std::vector<const Level<T>*>> grouped(const std::vector<const Level<T>*>& levels,
                                                  Alike alike) {
  std::vector<std::vector<const Level<T>*>> lists;
  for (auto* level : levels) {
    auto list = std::find_if(lists.begin(), lists.end(),
                             [&](auto& one) { return alike(*one.front(), *level); });
    if (list == lists.end()) list = lists.insert(list, {{}});
    list->push_back(level);
  }
  return lists;
}

// Room that begins on a cache line and is kept by its thread from call to call: to ask the system
// for it anew would cost more than many a level. Zero at first, then as the last call left it.
template <typename T>
T* room(int slot, int64_t count) {
  static thread_local std::vector<char> rooms[3];
  auto& bytes = rooms[slot];
  if (bytes.size() < count * sizeof(T) + 64) bytes.assign(count * sizeof(T) + 64, 0);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64);
}
