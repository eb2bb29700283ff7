// Levels by AMX, whose tiles of registers are multiplied as matrices of bfloat16.
//
// The pixels of a group lie end to end in cells of DEPTH numbers, so that the taps of a row of a
// kernel are one run of cells. A row of a tile is a cell, the next one that many pixels on: none
// crosses a cache line, which would cost three times the product. Columns are the outputs of a
// group: of all levels with as many groups, for every pixel that starts in the cell, and in several
// rows of the map, so that few channels a group still fill a tile.

#if defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

constexpr int SIDE = 16, DEPTH = 32;  // rows and columns of a tile; numbers along both operands

inline bool have_tiles() {  // Linux lends their registers to those who ask
  constexpr int request = 0x1023, tiles = 18;
  static const bool granted = syscall(SYS_arch_prctl, request, tiles) == 0;
  return granted;
}

struct Bundle {
  using Levels = std::vector<const Level<Bfloat16>*>;

  // Neighbouring columns that are neighbouring channels of one pixel.
  struct Run {
    int64_t line, shift, place, column, count;
  };

  // Rows y0 to y1 of the output of an image, with room for what is packed and summed for them.
  struct Strip {
    int64_t n, y0, y1, bands, height, pitch;  // height: of a plane; pitch: numbers of a group
    Bfloat16 *packed, *summed;

    Strip(const Bundle& b, int64_t n, int64_t y0, int64_t y1, Bfloat16* packed, Bfloat16* summed)
        : n(n), y0(y0), y1(y1), packed(packed), summed(summed) {
      bands = (y1 - y0 - 1) / b.lines + 1;
      height = bands + (b.rows - 1) / b.planes;
      // The last tile of a group reads past its end, numbers that meet a zero or are not wanted.
      const int64_t cells = (b.planes * height * b.width * b.inputs - 1) / DEPTH + 1;
      pitch = (cells + b.depth + (4 * SIDE * b.next - 1) / DEPTH + 1) * DEPTH;
    }
  };

  const Call<Bfloat16>& call;
  Levels levels;
  Frame frame;
  int64_t groups, inputs, outputs = 0;  // inputs and outputs of a group, outputs of all levels
  int64_t cell, shifts, lines;   // pixels in a cell; pixels and rows that are columns of one tile
  int64_t next, across, width;   // numbers to the next row; rows for one of the map; its pixels
  int64_t planes, rows;          // rows of input from one band to the next; that a band wants
  int64_t depth, sheets, chunk;  // cells along a row of taps; tiles of columns; groups at once
  std::vector<Run> runs;
  Bfloat16* weights = nullptr;  // [groups, rows, depth, sheets, DEPTH / 2, SIDE, 2]

  Bundle(const Call<Bfloat16>& call, Levels together)
      : call(call), levels(std::move(together)), frame(call, levels), groups(least(levels)) {
    inputs = call.channels / groups;
    for (auto* level : levels) outputs += level->outputs / groups;
    cell = std::max<int64_t>(1, DEPTH / inputs);
    shifts = std::max<int64_t>(1, cell / call.stride_x);
    lines = std::max<int64_t>(1, SIDE / (outputs * shifts));
    next = shifts * call.stride_x * inputs;
    const int64_t needed = (call.out_width - 1) * call.stride_x + frame.reach_x;
    across = (needed - 1) / (shifts * call.stride_x) + 1;
    width = across * shifts * call.stride_x;
    planes = lines * call.stride_y;
    rows = (lines - 1) * call.stride_y + frame.reach_y;
    depth = (((shifts - 1) * call.stride_x + frame.reach_x) * inputs - 1) / DEPTH + 1;
    sheets = (lines * shifts * outputs - 1) / SIDE + 1;
    chunk = std::min(groups, cell);
  }

  bool fits() const {
    return inputs % DEPTH == 0 || (DEPTH % inputs == 0 && next % DEPTH == 0);
  }

  // Of levels with more groups, several are taken for one, most of whose weights are zero then.
  static int64_t least(const Levels& levels) {
    int64_t groups = levels.front()->groups;
    for (auto* level : levels) groups = std::min(groups, level->groups);
    return groups;
  }

  // What it takes for a pixel of the output, in cells to pack: a product of two tiles takes about
  // as long as two of them.
  double cost() const {
    const double products = double(groups * rows * depth * sheets) / (SIDE * shifts * lines);
    return 2 * products + double(call.stride_y * call.stride_x * call.channels) / DEPTH;
  }

  int64_t size() const { return groups * rows * depth * sheets * DEPTH * SIDE; }

  void prepare(Bfloat16* room) {
    weights = room;
    for (int64_t line = 0, column = 0; line < lines; ++line)
      for (int64_t shift = 0; shift < shifts; ++shift)
        for (auto* level : levels) {
          const int64_t place = (line * call.out_width + shift) * call.out_channels + level->first;
          runs.push_back({line, shift, place, column, level->outputs / groups});
          column += level->outputs / groups;
        }
  }

  // The weights of a group for a row of input, in the order in which multiply() reads them.
  void fill(int64_t group, int64_t row) const {
    const uint32_t count = depth * sheets * DEPTH * SIDE;
    Bfloat16* tiles = weights + (group * rows + row) * count;
    std::memset(tiles, 0, count * sizeof(Bfloat16));
    for (size_t n = 0; n < runs.size(); ++n) {
      const Run& run = runs[n];
      const Level<Bfloat16>& level = *levels[n % levels.size()];
      const int64_t area = level.height * level.width, own = call.channels / level.groups;
      const int64_t down = row - run.line * call.stride_y - frame.pad_y + level.pad_y;
      const int64_t y = down / call.dilation_y;
      if (down < 0 || down % call.dilation_y || y >= level.height) continue;
      const int64_t left = run.shift * call.stride_x + frame.pad_x - level.pad_x;
      for (int64_t o = 0; o < run.count; ++o) {
        const int64_t output = group * run.count + o;
        const int64_t skipped = output / level.per_group() * own - group * inputs;
        const Bfloat16* w = level.weight + output * own * area + y * level.width;
        const uint32_t column = run.column + o;
        for (int64_t q = 0; q < level.width; ++q, ++w) {
          const uint32_t at = (left + q * call.dilation_x) * inputs + skipped;
          for (uint32_t c = 0; c < own; ++c) {
            const uint32_t tile = (at + c) / DEPTH * sheets + column / SIDE;
            const uint32_t pair = tile * DEPTH / 2 + (at + c) % DEPTH / 2;
            tiles[(pair * SIDE + column % SIDE) * 2 + (at + c) % 2] = w[c * area];
          }
        }
      }
    }
  }

  static void clear(Bfloat16* to, int64_t count) {  // few, so that a call would cost more
    for (; count > 0; count -= DEPTH, to += DEPTH)
      _mm512_mask_storeu_epi16(to, count < DEPTH ? (1u << count) - 1 : ~0u, _mm512_setzero_si512());
  }

  // Pixels of so many groups become groups of so many pixels, each a cell.
  template <int CELL>
  static void turn(__m512i* cells) {
    if constexpr (CELL == 8) {
      __m512i even[4], odd[4];
      for (int k = 0; k < 4; ++k) {
        even[k] = _mm512_unpacklo_epi64(cells[2 * k], cells[2 * k + 1]);
        odd[k] = _mm512_unpackhi_epi64(cells[2 * k], cells[2 * k + 1]);
      }
      turn<4>(even);
      turn<4>(odd);
      for (int k = 0; k < 4; ++k) cells[2 * k] = even[k], cells[2 * k + 1] = odd[k];
    } else if constexpr (CELL == 4) {
      const __m512i a = _mm512_shuffle_i64x2(cells[0], cells[1], 0x44);
      const __m512i b = _mm512_shuffle_i64x2(cells[0], cells[1], 0xee);
      const __m512i c = _mm512_shuffle_i64x2(cells[2], cells[3], 0x44);
      const __m512i d = _mm512_shuffle_i64x2(cells[2], cells[3], 0xee);
      cells[0] = _mm512_shuffle_i64x2(a, c, 0x88);
      cells[1] = _mm512_shuffle_i64x2(a, c, 0xdd);
      cells[2] = _mm512_shuffle_i64x2(b, d, 0x88);
      cells[3] = _mm512_shuffle_i64x2(b, d, 0xdd);
    } else {
      const __m512i a = _mm512_shuffle_i64x2(cells[0], cells[1], 0x44);
      cells[1] = _mm512_shuffle_i64x2(cells[0], cells[1], 0xee);
      cells[0] = a;
    }
  }

  // [groups of a chunk, planes, height, width, inputs], zero where the map ends.
  template <int64_t INPUTS>
  void pack(const Strip& strip, int64_t group) const {
    const int64_t count = INPUTS ? INPUTS : inputs, together = std::min(chunk, groups - group);
    const int64_t end = std::min(width, call.width + frame.pad_x);
    for (int64_t r = 0; r < strip.height * planes; ++r) {
      const int64_t y = strip.y0 * call.stride_y - frame.pad_y + r;
      const bool empty = y < 0 || y >= call.height;
      const int64_t left = empty ? width : std::min(frame.pad_x, width);
      const int64_t right = empty ? width : end;
      const int64_t beside = (width - right) * count;
      Bfloat16* line = strip.packed + (r % planes * strip.height + r / planes) * width * count;
      for (int64_t g = 0; g < together; ++g) {
        clear(line + g * strip.pitch, left * count);
        clear(line + g * strip.pitch + right * count, beside);
      }
      if (empty) continue;
      const Bfloat16* pixel = call.pixel(strip.n, y, left - frame.pad_x) + group * count;
      if (count == call.channels) {
        std::memcpy(line + left * count, pixel, (right - left) * count * sizeof(Bfloat16));
        continue;
      }
      int64_t q = left;
      const auto next_pixel = [&] {
        __builtin_prefetch(pixel + 24 * call.channels);  // farther apart than processors foresee
        for (int64_t g = 0; g < together; ++g)
          std::memcpy(line + g * strip.pitch + q * count, pixel + g * count,
                      count * sizeof(Bfloat16));
        pixel += call.channels;
        ++q;
      };
      if constexpr (INPUTS > 0) {
        constexpr int CELL = DEPTH / INPUTS;  // pixels, and groups
        while (q < right && q % CELL) next_pixel();
        for (; together == CELL && q + CELL <= right; q += CELL, pixel += CELL * call.channels) {
          __m512i cells[CELL];
          for (int k = 0; k < CELL; ++k) cells[k] = _mm512_loadu_si512(pixel + k * call.channels);
          turn<CELL>(cells);
          for (int g = 0; g < CELL; ++g)
            _mm512_storeu_si512(line + g * strip.pitch + q * INPUTS, cells[g]);
        }
      }
      while (q < right) next_pixel();
    }
    // Behind it lies what an earlier call left there: if NaN, it would not vanish with a zero.
    const int64_t end_of_group = planes * strip.height * width * count;
    for (int64_t g = 0; g < together; ++g)
      std::memset(strip.packed + g * strip.pitch + end_of_group, 0,
                  (strip.pitch - end_of_group) * sizeof(Bfloat16));
  }

  // Sums for UNITS tiles of rows and SHEETS tiles of columns, at most four in all.
  template <int UNITS, int SHEETS>
  void multiply(const Strip& strip, const Bfloat16* x, const Bfloat16* w, float* sums) const {
    constexpr int64_t tile = DEPTH * SIDE;
    const int64_t bytes = next * sizeof(Bfloat16);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t r = 0; r < rows; ++r) {
      const Bfloat16* at = x + (r % planes * strip.height + r / planes) * width * inputs;
      for (int64_t d = 0; d < depth; ++d, at += DEPTH, w += sheets * tile) {
        _tile_loadd(6, w, 64);
        _tile_loadd(4, at, bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (SHEETS == 2) {
          _tile_loadd(7, w + tile, 64);
          _tile_dpbf16ps(1, 4, 7);
          if constexpr (UNITS == 2) {
            _tile_loadd(5, at + SIDE * next, bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        } else if constexpr (UNITS > 1) {
          _tile_loadd(5, at + SIDE * next, bytes);
          _tile_dpbf16ps(1, 5, 6);
          if constexpr (UNITS == 4) {
            _tile_loadd(7, at + 2 * SIDE * next, bytes);
            _tile_dpbf16ps(2, 7, 6);
            _tile_loadd(4, at + 3 * SIDE * next, bytes);
            _tile_dpbf16ps(3, 4, 6);
          }
        }
      }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SIDE * SIDE, 64);
    _tile_stored(2, sums + 2 * SIDE * SIDE, 64);
    _tile_stored(3, sums + 3 * SIDE * SIDE, 64);
  }

  template <int COUNT>
  static void copy(Bfloat16* to, const Bfloat16* from, int64_t apart, int64_t count,
                   int64_t times) {
    if (COUNT) count = COUNT;
    for (int64_t g = 0; g < times; ++g)
      std::memcpy(to + g * count, from + g * apart, count * sizeof(Bfloat16));
  }

  // As copy<1> for eight neighbouring columns and as many groups.
  static void transpose(Bfloat16* const* to, const Bfloat16* from, int64_t apart) {
    __m128i rows[8], pairs[8];
    for (int g = 0; g < 8; ++g) rows[g] = _mm_loadu_si128((const __m128i*)(from + g * apart));
    for (int g = 0; g < 4; ++g) {
      pairs[g] = _mm_unpacklo_epi16(rows[2 * g], rows[2 * g + 1]);
      pairs[g + 4] = _mm_unpackhi_epi16(rows[2 * g], rows[2 * g + 1]);
    }
    for (int half = 0; half < 2; ++half) {
      const __m128i *p = pairs + 4 * half;
      const __m128i a = _mm_unpacklo_epi32(p[0], p[1]), b = _mm_unpackhi_epi32(p[0], p[1]);
      const __m128i c = _mm_unpacklo_epi32(p[2], p[3]), d = _mm_unpackhi_epi32(p[2], p[3]);
      _mm_storeu_si128((__m128i*)to[4 * half], _mm_unpacklo_epi64(a, c));
      _mm_storeu_si128((__m128i*)to[4 * half + 1], _mm_unpackhi_epi64(a, c));
      _mm_storeu_si128((__m128i*)to[4 * half + 2], _mm_unpacklo_epi64(b, d));
      _mm_storeu_si128((__m128i*)to[4 * half + 3], _mm_unpackhi_epi64(b, d));
    }
  }

  // What was summed for a chunk of groups, into its place: neighbours there too.
  void scatter(const Strip& strip, int64_t group) const {
    const int64_t columns = sheets * SIDE, apart = strip.bands * across * columns;
    const int64_t together = std::min(chunk, groups - group);
    for (int64_t band = 0; band < strip.bands; ++band)
      for (int64_t q = 0, y = strip.y0 + band * lines; q < call.out_width; q += shifts) {
        Bfloat16* pixel = call.output(strip.n, y, q);
        const Bfloat16* cell_sums = strip.summed + (band * across + q / shifts) * columns;
        const bool whole = y + lines <= strip.y1 && q + shifts <= call.out_width;
        if (whole && together == 8 && outputs == int64_t(levels.size()) && runs.size() % 8 == 0) {
          for (size_t n = 0; n < runs.size(); n += 8) {
            Bfloat16* to[8];
            for (int k = 0; k < 8; ++k) to[k] = pixel + runs[n + k].place + group;
            transpose(to, cell_sums + n, apart);
          }
          continue;
        }
        for (const Run& run : runs) {
          if (!whole && (y + run.line >= strip.y1 || q + run.shift >= call.out_width)) continue;
          Bfloat16* to = pixel + run.place + group * run.count;
          const auto put = run.count == 1   ? copy<1>
                           : run.count == 2 ? copy<2>
                           : run.count == 4 ? copy<4>
                           : run.count == 8 ? copy<8>
                                            : copy<0>;
          put(to, cell_sums + run.column, apart, run.count, together);
        }
      }
  }

  void compute(const Strip& strip) const {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
    } config;
    _tile_loadconfig(&config);
    const int64_t cells = strip.bands * across, columns = sheets * SIDE;
    alignas(64) float sums[4 * SIDE * SIDE];
    std::vector<float> biases(columns);
    for (int64_t group = 0; group < groups; ++group) {
      if (group % chunk == 0) {
        if (inputs == 4)
          pack<4>(strip, group);
        else if (inputs == 8)
          pack<8>(strip, group);
        else if (inputs == 16)
          pack<16>(strip, group);
        else
          pack<0>(strip, group);
      }
      for (size_t n = 0; n < runs.size(); ++n)
        if (const Bfloat16* bias = levels[n % levels.size()]->bias)
          for (int64_t o = 0; o < runs[n].count; ++o)
            biases[runs[n].column + o] = number(bias[group * runs[n].count + o]);
      const Bfloat16* x = strip.packed + group % chunk * strip.pitch;
      const Bfloat16* w = weights + group * (size() / groups);
      Bfloat16* to = strip.summed + group % chunk * cells * columns;
      for (int64_t sheet = 0, pair; sheet < sheets; sheet += pair, w += pair * DEPTH * SIDE) {
        pair = std::min<int64_t>(2, sheets - sheet);
        for (int64_t at = 0, units; at < cells; at += units * SIDE) {
          const int64_t left = (cells - at - 1) / SIDE + 1;
          units = pair == 1 && left >= 4 ? 4 : std::min<int64_t>(2, left);
          if (pair == 2 && units == 2)
            multiply<2, 2>(strip, x + at * next, w, sums);
          else if (pair == 2)
            multiply<1, 2>(strip, x + at * next, w, sums);
          else if (units == 4)
            multiply<4, 1>(strip, x + at * next, w, sums);
          else if (units == 2)
            multiply<2, 1>(strip, x + at * next, w, sums);
          else
            multiply<1, 1>(strip, x + at * next, w, sums);
          for (int64_t k = 0; k < pair; ++k) {
            const Floats bias = load(biases.data() + (sheet + k) * SIDE);
            for (int64_t m = 0; m < units * SIDE && at + m < cells; ++m) {
              const float* sum = sums + ((m / SIDE * pair + k) * SIDE + m % SIDE) * SIDE;
              const Floats v = load(sum) + bias;
              store(to + (at + m) * columns + (sheet + k) * SIDE, v);
            }
          }
        }
      }
      if ((group + 1) % chunk == 0 || group + 1 == groups) scatter(strip, group / chunk * chunk);
    }
    _tile_release();
  }
};

// The levels that are computed together: all of as many groups, or of more where that pays.
inline std::vector<Bundle::Levels> bundled(const Call<Bfloat16>& call) {
  auto lists = grouped(call.all(), [](auto& a, auto& b) { return a.groups == b.groups; });
  const auto cost = [&](const Bundle::Levels& levels) {
    const Bundle bundle(call, levels);
    return bundle.fits() ? bundle.cost() : 1e99;
  };
  for (;;) {
    double most = 0;
    size_t to = 0, from = 0;
    Bundle::Levels joined;
    for (size_t few = 0; few < lists.size(); ++few)
      for (size_t many = 0; many < lists.size(); ++many) {
        if (few == many || Bundle::least(lists[many]) % Bundle::least(lists[few])) continue;
        Bundle::Levels both = lists[few];
        both.insert(both.end(), lists[many].begin(), lists[many].end());
        const double saved = cost(lists[few]) + cost(lists[many]) - cost(both);
        if (saved > most) most = saved, to = few, from = many, joined = both;
      }
    if (joined.empty()) return lists;
    lists[to] = joined;
    lists.erase(lists.begin() + from);
  }
}

// As by_lanes().
inline bool by_amx(const Call<Bfloat16>& call) {
  if (!have_tiles()) return false;
  std::vector<Bundle> bundles;
  for (auto& list : bundled(call)) bundles.emplace_back(call, list);
  int64_t weights = 0;
  for (const auto& bundle : bundles) {
    if (!bundle.fits()) return false;
    weights += bundle.size();
  }
  if (!call.x) return true;
  auto* place = room<Bfloat16>(0, weights);
  int64_t unit = 1, row = 1, packed_size = 0, summed_size = 0;
  for (auto& bundle : bundles) {
    bundle.prepare(place);
    place += bundle.size();
    unit = std::max(unit, bundle.lines);
    row = std::max(row, bundle.width * bundle.inputs * bundle.chunk);
  }
  const int64_t near = NEAR / int64_t(sizeof(Bfloat16)) / row;  // packed rows
  const int64_t rows = call.rows_at_once(near / call.stride_y, unit);
  for (const auto& bundle : bundles) {
    const Bundle::Strip strip(bundle, 0, 0, rows, nullptr, nullptr);
    const int64_t sums = strip.bands * bundle.across * bundle.sheets * SIDE;
    packed_size = std::max(packed_size, bundle.chunk * strip.pitch);
    summed_size = std::max(summed_size, bundle.chunk * sums);
  }
#pragma omp parallel num_threads(call.threads)
  {
    for (const auto& bundle : bundles) {
#pragma omp for collapse(2) nowait
      for (int64_t group = 0; group < bundle.groups; ++group)
        for (int64_t row = 0; row < bundle.rows; ++row) bundle.fill(group, row);
    }
#pragma omp barrier
    Bfloat16 *packed = room<Bfloat16>(1, packed_size), *summed = room<Bfloat16>(2, summed_size);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t n = 0; n < call.images; ++n)
      for (int64_t y = 0; y < call.out_height; y += rows)
        for (const auto& bundle : bundles)
          bundle.compute({bundle, n, y, std::min(call.out_height, y + rows), packed, summed});
  }
  return true;
}
#else
inline bool by_amx(const Call<Bfloat16>&) { return false; }
#endif
