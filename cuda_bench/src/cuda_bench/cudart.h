// What the stand-in for the CUDA runtime hands a launcher's calls to: the bench, or a function of
// the launchers' own library that looks at them without running a kernel.
#pragma once

#include <cstddef>

struct Dim3 {
  unsigned x, y, z;
};

// All but device_attribute return an error code, 0 for none.
struct Bench {
  int (*launch)(const char* kernel, const Dim3* grid, const Dim3* block, size_t shared,
                void* stream, void** arguments);
  int (*fill)(void* target, int value, size_t size, void* stream);
  int (*copy)(void* target, const void* source, size_t size, int kind, void* stream);
  int (*device_attribute)(int attribute);
  int (*set_shared)(const char* kernel, int size);
  int (*refuse)(const char* function);  // called where a launcher must not
};

extern "C" void bench_set(const Bench* functions);
