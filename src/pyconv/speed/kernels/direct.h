// Levels of a pyramid in the way that suits them.

// By Winograd those that it suits, if the weights are kept, and by lanes the others. As by_lanes().
inline int64_t direct(const Call<float>& call) {
  std::vector<Winograd> winograds;
  std::vector<const Level<float>*> others;
  for (auto* level : call.all()) {
    if (Winograd::suits(call, *level))
      winograds.emplace_back(call, *level);
    else
      others.push_back(level);
  }
  ByLanes<float> lanes(call, others);
  if (winograds.empty() || !lanes.fits) return by_lanes(call);
  int64_t bytes = 0;
  for (const auto& one : winograds) bytes += one.size() * sizeof(Floats);
  bytes += lanes.bytes;
  if (!call.has_packed_weights(bytes)) return call.x ? by_lanes(call) : bytes;
  auto* kept = (Floats*)call.packed_weights;
  for (auto& one : winograds) {
    one.run(kept);
    kept += one.size();
  }
  if (!others.empty()) lanes.run(kept);
  return bytes;
}

extern "C" int64_t forward_float32(const Call<float>* call) { return direct(*call); }
extern "C" int64_t forward_bfloat16(const Call<Bfloat16>* call) {
  int64_t bytes = by_amx(*call);
#if defined(__AVX512BF16__)
  if (!bytes) bytes = by_lanes<Bfloat16, 2>(*call);
#endif
  return bytes ? bytes : by_lanes(*call);
}
