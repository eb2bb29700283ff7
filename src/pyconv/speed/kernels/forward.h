// Levels of a pyramid together: by the processor's units for bfloat16 where it has them.

extern "C" int64_t forward_float32(const Call<float>* call) { return by_lanes(*call); }
extern "C" int64_t forward_bfloat16(const Call<Bfloat16>* call) {
#if defined(__AVX512BF16__)
  return by_amx(*call) || by_lanes<Bfloat16, 2>(*call) || by_lanes(*call);
#else
  return by_amx(*call) || by_lanes(*call);
#endif
}
