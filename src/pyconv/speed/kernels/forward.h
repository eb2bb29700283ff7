// Levels of a pyramid together: by the processor's units for bfloat16 where it has them.

extern "C" int64_t forward_float32(const Call<float>* call) { return by_lanes(*call); }
extern "C" int64_t forward_bfloat16(const Call<Bfloat16>* call) {
  int64_t bytes = by_amx(*call);
#if defined(__AVX512BF16__)
  if (!bytes) bytes = by_lanes<Bfloat16, 2>(*call);
#endif
  return bytes ? bytes : by_lanes(*call);
}
