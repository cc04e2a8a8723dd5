// y = round(scale * x) in half, bfloat16 and float, eight narrow values (16 bytes) at a time.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

template <typename T>
struct alignas(16) Vector {
  static constexpr int size = 16 / sizeof(T);
  T value[size];
};

template <typename T>
__global__ void scale(const T* __restrict__ input, T* __restrict__ output, int64_t count,
                      float factor) {
  constexpr int size = Vector<T>::size;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = count / size;
  if (index < vectors) {
    Vector<T> v = reinterpret_cast<const Vector<T>*>(input)[index];
    for (T& value : v.value)
      value = T(float(value) * factor);
    reinterpret_cast<Vector<T>*>(output)[index] = v;
  }
  const int64_t rest = vectors * size + index;
  if (rest < count)
    output[rest] = T(float(input[rest]) * factor);
}

template <typename T>
int launch(const void* input, void* output, int64_t count, float factor, void* stream) {
  const int64_t blocks = (count / Vector<T>::size + 63) / 64;
  scale<<<unsigned(blocks > 0 ? blocks : 1), 64, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const T*>(input), static_cast<T*>(output), count, factor);
  return cudaGetLastError();
}

extern "C" int launch_scale(const void* input, void* output, int64_t count, float factor, int dtype,
                            void* stream) {
  if (dtype == 0)
    return launch<float>(input, output, count, factor, stream);
  if (dtype == 1)
    return launch<__half>(input, output, count, factor, stream);
  return launch<__nv_bfloat16>(input, output, count, factor, stream);
}
