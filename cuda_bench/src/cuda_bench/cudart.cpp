// Stands in for the CUDA runtime library: what nvcc's host code and a launcher call, handed to the
// bench through the functions that it sets. Nothing here needs a header or a library of CUDA.
#include "cudart.h"

#include <cstddef>
#include <map>
#include <string>

// The beginning of cudaLaunchConfig_t.
struct LaunchConfiguration {
  Dim3 grid, block;
  size_t shared;
  void* stream;
};

namespace {

constexpr int success = 0, invalid_value = 1, invalid_device_function = 98;
constexpr int maximum_dynamic_shared = 8;  // cudaFuncAttributeMaxDynamicSharedMemorySize

Bench bench;
int last_error = success;
Dim3 pushed_grid, pushed_block;
size_t pushed_shared;
void* pushed_stream;

std::map<const void*, std::string>& kernels() {
  static std::map<const void*, std::string> names;
  return names;
}

int record(int error) {
  if (error != success)
    last_error = error;
  return error;
}

int launch(const void* function, Dim3 grid, Dim3 block, void** arguments, size_t shared,
           void* stream) {
  const auto found = kernels().find(function);
  if (found == kernels().end() || bench.launch == nullptr)
    return record(invalid_device_function);
  return record(bench.launch(found->second.c_str(), &grid, &block, shared, stream, arguments));
}

}  // namespace

extern "C" {

void bench_set(const Bench* functions) {
  bench = *functions;
}

// What nvcc's host code calls when a library is loaded, and around <<< >>>.
void** __cudaRegisterFatBinary(void* binary) {
  static void* handle;
  handle = binary;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) {
  return 1;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, void*, void*,
                            void*, void*, int*) {
  kernels()[host] = device;
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  pushed_grid = grid;
  pushed_block = block;
  pushed_shared = shared;
  pushed_stream = stream;
  return success;
}
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void** stream) {
  *grid = pushed_grid;
  *block = pushed_block;
  *shared = pushed_shared;
  *stream = pushed_stream;
  return success;
}
int __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return success;
}
int __cudaLaunchKernel(const void* f, Dim3 g, Dim3 b, void** a, size_t s, void* on) {
  return launch(f, g, b, a, s, on);
}
int __cudaLaunchKernel_ptsz(const void* f, Dim3 g, Dim3 b, void** a, size_t s, void* on) {
  return launch(f, g, b, a, s, on);
}

// What launchers call.
int cudaLaunchKernel(const void* f, Dim3 g, Dim3 b, void** a, size_t s, void* on) {
  return launch(f, g, b, a, s, on);
}
int cudaLaunchKernelExC(const LaunchConfiguration* c, const void* f, void** a) {
  return launch(f, c->grid, c->block, a, c->shared, c->stream);
}
int cudaGetLastError() {
  const int error = last_error;
  last_error = success;
  return error;
}
int cudaPeekAtLastError() {
  return last_error;
}
const char* cudaGetErrorString(int error) {
  return error == success ? "no error" : "an error that the bench reports";
}
const char* cudaGetErrorName(int error) {
  return error == success ? "cudaSuccess" : "cudaError";
}
int cudaMemsetAsync(void* target, int value, size_t size, void* stream) {
  return record(bench.fill(target, value, size, stream));
}
int cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
  return record(bench.copy(target, source, size, kind, stream));
}
int cudaGetDevice(int* device) {
  *device = 0;
  return success;
}
int cudaSetDevice(int device) {
  return record(device == 0 ? success : 101);
}
int cudaGetDeviceCount(int* count) {
  *count = 1;
  return success;
}
int cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = bench.device_attribute(attribute);
  return record(*value < 0 ? invalid_value : success);
}
int cudaFuncSetAttribute(const void* function, int attribute, int value) {
  const auto found = kernels().find(function);
  if (found == kernels().end())
    return record(invalid_device_function);
  if (attribute != maximum_dynamic_shared)
    return success;
  return record(bench.set_shared(found->second.c_str(), value));
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                           size_t, unsigned) {
  *blocks = threads > 0 ? 1024 / threads : 0;
  return success;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* f, int threads,
                                                  size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, threads, shared, 0);
}
int cudaStreamIsCapturing(void*, int* status) {
  *status = 0;
  return success;
}

// What stops a CUDA graph from being captured, or allocates behind torch's back.
int cudaDeviceSynchronize() {
  return record(bench.refuse("cudaDeviceSynchronize"));
}
int cudaStreamSynchronize(void*) {
  return record(bench.refuse("cudaStreamSynchronize"));
}
int cudaMalloc(void**, size_t) {
  return record(bench.refuse("cudaMalloc"));
}
int cudaMallocAsync(void**, size_t, void*) {
  return record(bench.refuse("cudaMallocAsync"));
}
int cudaFree(void*) {
  return record(bench.refuse("cudaFree"));
}
int cudaFreeAsync(void*, void*) {
  return record(bench.refuse("cudaFreeAsync"));
}
int cudaMemset(void*, int, size_t) {
  return record(bench.refuse("cudaMemset"));
}
int cudaMemcpy(void*, const void*, size_t, int) {
  return record(bench.refuse("cudaMemcpy"));
}
}
