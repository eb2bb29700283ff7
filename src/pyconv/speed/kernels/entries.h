// What Python calls, for one NUMBER, float or Bfloat16: the other may never be wanted.

#define ENTRY extern "C" __attribute__((visibility("default"))) int64_t

ENTRY forward(const Call<NUMBER>* call) { return forward(*call); }
ENTRY grad_weight(const Call<NUMBER>* call) { return grad_weight(*call); }
ENTRY grad_input(const Call<NUMBER>* call) { return grad_input(*call); }
ENTRY norm_forward(const Norm<NUMBER>* norm) { return forwards(*norm); }
ENTRY norm_backward(const Norm<NUMBER>* norm) { return backwards(*norm); }
