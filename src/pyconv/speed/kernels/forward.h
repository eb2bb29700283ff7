// Levels of a pyramid together: by the processor's units for bfloat16 where it has them.

inline bool forward(const Call<float>& call) { return by_lanes(call); }
inline bool forward(const Call<Bfloat16>& call) {
#if defined(__AVX512BF16__)
  return by_amx(call) || by_lanes<Bfloat16, 2>(call) || by_lanes(call);
#else
  return by_amx(call) || by_lanes(call);
#endif
}
