// Enough of CUDA to run kernels on a CPU: the threads of a block are fibers, which take turns wherever a kernel waits for others.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 blockIdx, gridDim, blockDim, threadIdx;

struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

// --- bf16 and f16, rounded to the nearest even as the hardware does -------------------------------------------------------

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return of_bits((uint32_t)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits = bits_of(x);
  if (std::isnan(x)) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

struct __half {
  uint16_t bits;
};
inline float __half2float(__half x) {
  int sign = x.bits >> 15, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  double value = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return (float)(sign ? -value : value);
}
inline __half __float2half(float x) {
  uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  double size = std::fabs((double)x);
  if (std::isnan(x)) return {0x7fff};
  if (size >= 65520) return {(uint16_t)(sign | 0x7c00)};
  int exponent;
  std::frexp(size, &exponent);
  int unit = std::max(exponent - 11, -24);
  double steps = std::nearbyint(std::ldexp(size, -unit)); // of 11 bits, or of the least number
  if (steps == 0) return {sign};
  if (steps < 1024) return {(uint16_t)(sign | (uint16_t)steps)};
  if (steps == 2048) steps = 1024, unit++;
  return {(uint16_t)(sign | (uint16_t)((unit + 25) << 10) | (uint16_t)((int)steps - 1024))};
}

// --- Threads --------------------------------------------------------------------------------------------------------------

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

struct Warp {
  Barrier barrier;
  float shared[32];
  uint32_t a[32][4], b[32][2];
  const void *rows[32];
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  dim3 index;
  bool done = false;
};

struct Machine {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier block;
  Fiber *current = nullptr;
  std::function<void()> kernel;
};
inline Machine machine;

inline void yield() { swapcontext(&machine.current->context, &machine.scheduler); }
inline void wait_for(Barrier &barrier, unsigned threads) {
  unsigned generation = barrier.generation;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    barrier.generation++;
    return;
  }
  while (barrier.generation == generation) yield();
}
inline void run_fiber() {
  machine.kernel();
  machine.current->done = true;
  swapcontext(&machine.current->context, &machine.scheduler);
}

inline Warp &warp() { return machine.warps[machine.current->index.x / 32]; }
inline unsigned lane() { return machine.current->index.x % 32; }
inline void __syncthreads() { wait_for(machine.block, blockDim.x); }
inline void sync_warp() { wait_for(warp().barrier, 32); }

inline float __shfl_xor_sync(unsigned, float x, int apart) {
  Warp &w = warp();
  w.shared[lane()] = x;
  sync_warp();
  float other = w.shared[lane() ^ apart];
  sync_warp();
  return other;
}

// Runs a kernel over a grid, one block after the other.
inline void launch(dim3 grid, unsigned threads, std::function<void()> kernel) {
  constexpr size_t STACK = 256 << 10;
  machine.kernel = std::move(kernel);
  gridDim = grid;
  blockDim = {threads, 1, 1};
  machine.fibers.resize(threads);
  machine.warps.assign(threads / 32, {});
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        for (unsigned i = 0; i < threads; i++) {
          Fiber &fiber = machine.fibers[i];
          if (!fiber.stack) fiber.stack.reset(new char[STACK]);
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = fiber.stack.get();
          fiber.context.uc_stack.ss_size = STACK;
          fiber.context.uc_link = nullptr;
          makecontext(&fiber.context, run_fiber, 0);
          fiber.index = {i, 0, 0};
          fiber.done = false;
        }
        for (bool running = true; running;) {
          running = false;
          for (Fiber &fiber : machine.fibers) {
            if (fiber.done) continue;
            machine.current = &fiber;
            threadIdx = fiber.index;
            swapcontext(&machine.scheduler, &fiber.context);
            running = running || !fiber.done;
          }
        }
      }
}

// --- Tensor cores, by the layouts of the PTX manual (mma.m16n8k16 and ldmatrix) -------------------------------------------

template <typename T> float half_of(uint32_t pair, int which);
template <> inline float half_of<__nv_bfloat16>(uint32_t pair, int which) { return __bfloat162float({(uint16_t)(pair >> 16 * which)}); }
template <> inline float half_of<__half>(uint32_t pair, int which) { return __half2float({(uint16_t)(pair >> 16 * which)}); }

template <typename T> inline void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, T) {
  Warp &w = warp();
  memcpy(w.a[lane()], a, 16);
  w.b[lane()][0] = b0;
  w.b[lane()][1] = b1;
  sync_warp();
  // A[row][k] is in register (row / 8) + 2 (k / 8) of lane 4 (row % 8) + k % 8 / 2; B[k][n] in register k / 8 of lane 4 n + k % 8 / 2.
  for (int i = 0; i < 4; i++) {
    int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++)
      d[i] += half_of<T>(w.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2) * half_of<T>(w.b[column * 4 + k % 8 / 2][k / 8], k % 2);
  }
  sync_warp();
}

inline void load_matrices(uint32_t r[4], const void *row, bool transposed) {
  Warp &w = warp();
  w.rows[lane()] = row;
  if ((uintptr_t)row % 16) abort(); // as the hardware would
  sync_warp();
  for (int matrix = 0; matrix < 4; matrix++) {
    uint16_t both[2];
    for (int i = 0; i < 2; i++) {
      int row_of = lane() / 4, column = lane() % 4 * 2 + i;
      if (transposed) std::swap(row_of, column);
      both[i] = ((const uint16_t *)w.rows[matrix * 8 + row_of])[column];
    }
    r[matrix] = both[0] | (uint32_t)both[1] << 16;
  }
  sync_warp();
}
