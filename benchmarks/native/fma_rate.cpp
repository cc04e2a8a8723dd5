// Prints the multiply-adds of one core, as GFLOP/s: ten independent chains of vector FMAs, enough
// to hide their latency, in registers alone. Build for the instruction set in question, with
// VECTOR_BYTES as wide as its vectors.
#include <chrono>
#include <cstdio>

typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));

int main() {
  constexpr int kChains = 10;
  constexpr long kSteps = 4'000'000;
  constexpr double kOperations = 2.0 * kSteps * kChains * (VECTOR_BYTES / sizeof(float));
  Vector sums[kChains] = {};
  const Vector factor = Vector{} + 0.999f, term = Vector{} + 1e-3f;
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
      for (Vector& sum : sums) {
        sum = sum * factor + term;
        asm volatile("" : "+x"(sum));  // keeps the chains as they stand here
      }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = kOperations / seconds.count() > best ? kOperations / seconds.count() : best;
  }
  std::printf("%.1f\n", best / 1e9);
}
