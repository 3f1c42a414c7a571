// The operations on a GPU, in f32, bf16 and f16, for compute capability 8.0 and up.
//
// Every sum is in f32 and has one order, which depends on the shape of one element of the batch alone. Images are
// (batch, pixels, channels). `tests/cuda_kernels.rs` compiles this file for the CPU, with threads, warps and tensor cores
// emulated, and compares each kernel with plain code in f64.

#ifdef EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#endif

typedef unsigned int u32;

// --- Numbers --------------------------------------------------------------------------------------------------------------

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float wide(__half x) { return __half2float(x); }

template <typename T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half(x); }

// As many numbers as 16 bytes have, and one alone.
template <typename T> struct __align__(16) Pack { T x[16 / sizeof(T)]; };
template <typename T> struct One { T x[1]; };

enum Function { SILU = 0, GELU = 1, QUICK_GELU = 2 };

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float value_of(int function, float x) {
  switch (function) {
    case SILU: return x * sigmoid(x);
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    default: return x * sigmoid(1.702f * x);
  }
}

__device__ inline float slope_of(int function, float x) {
  if (function == GELU) {
    float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    return cdf + x * 0.39894228040143268f * expf(-0.5f * x * x);
  }
  float k = function == SILU ? 1.0f : 1.702f, s = sigmoid(k * x);
  return s * (1.0f + k * x * (1.0f - s));
}

// --- Sums -----------------------------------------------------------------------------------------------------------------

__device__ inline float warp_sum(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
  return x;
}

// The sum over a block of whole warps, for all of its threads.
__device__ inline float block_sum(float x, float *of_warps) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (u32 warp = 0; warp < blockDim.x / 32; warp++) sum += of_warps[warp];
  return sum;
}

// --- Convolution ----------------------------------------------------------------------------------------------------------

// Gathers for each output pixel the `kernel²` pixels that it reads: (images · rows · columns, kernel², channels). With
// `backward`, what an input pixel's gradient reads of the result's gradient. V numbers at a time, of which `channels` is a
// multiple.
template <typename T, typename V>
__device__ inline void unfold(const T *x, T *out, u32 height, u32 width, u32 channels, u32 rows, u32 columns, u32 kernel, u32 stride, int top, int left,
                              int backward, u32 count) {
  const V *from = (const V *)x;
  V *to = (V *)out;
  u32 vectors = channels / (sizeof(V) / sizeof(T)), area = kernel * kernel;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    u32 vector = i % vectors, rest = i / vectors;
    u32 position = rest % area, pixel = rest / area;
    int ky = position / kernel, kx = position % kernel;
    int column = pixel % columns, row = pixel / columns % rows;
    u32 image = pixel / columns / rows;
    int y, x_;
    bool inside;
    if (backward) {
      y = row + top - ky;
      x_ = column + left - kx;
      inside = y >= 0 && x_ >= 0 && y % (int)stride == 0 && x_ % (int)stride == 0;
      y /= (int)stride;
      x_ /= (int)stride;
    } else {
      y = row * (int)stride + ky - top;
      x_ = column * (int)stride + kx - left;
      inside = y >= 0 && x_ >= 0;
    }
    V value = {};
    if (inside && y < (int)height && x_ < (int)width) value = from[(((size_t)image * height + y) * width + x_) * vectors + vector];
    to[i] = value;
  }
}

#define UNFOLD(T, NAME)                                                                                                               \
  extern "C" __global__ void unfold_##NAME(const T *x, T *out, u32 height, u32 width, u32 channels, u32 rows, u32 columns, u32 kernel, \
                                           u32 stride, int top, int left, int backward, int packed, u32 count) {                     \
    if (packed)                                                                                                                      \
      unfold<T, Pack<T>>(x, out, height, width, channels, rows, columns, kernel, stride, top, left, backward, count);                \
    else                                                                                                                             \
      unfold<T, T>(x, out, height, width, channels, rows, columns, kernel, stride, top, left, backward, count);                      \
  }
UNFOLD(float, f32)
UNFOLD(__nv_bfloat16, bf16)
UNFOLD(__half, f16)

// --- What follows a product -------------------------------------------------------------------------------------------------

// y += bias of each column, and `other`; either may be missing. `count` is the number of packs, `width` of packs in a row.
template <typename T>
__device__ inline void finish(T *y, const T *bias, const T *other, u32 width, u32 count) {
  const int n = 16 / sizeof(T);
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    Pack<T> sum = ((Pack<T> *)y)[i], b = {}, o = {};
    if (bias) b = ((const Pack<T> *)bias)[i % width];
    if (other) o = ((const Pack<T> *)other)[i];
    for (int j = 0; j < n; j++) {
      float total = wide(sum.x[j]);
      if (bias) total += wide(b.x[j]);
      if (other) total += wide(o.x[j]);
      sum.x[j] = narrow<T>(total);
    }
    ((Pack<T> *)y)[i] = sum;
  }
}

// --- Norms ----------------------------------------------------------------------------------------------------------------

// One block normalises one group of one image; the image stays in the L2 cache between the passes.
template <typename T> struct Group {
  const T *x;
  const T *weight, *bias;
  const float *shift;
  u32 channels, per, first, count;
  float mean, rstd;

  __device__ inline size_t at(u32 i) const { return (size_t)(i / per) * channels + first + i % per; }
  __device__ inline u32 channel(u32 i) const { return first + i % per; }
  __device__ inline float in(u32 i) const {
    float value = wide(x[at(i)]);
    return shift ? value + shift[channel(i)] : value;
  }

  // Mean and 1 / √(variance + ε), of the centred numbers.
  __device__ inline void measure(float eps, float *sums) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += in(i);
    mean = block_sum(sum, sums) / count;
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
      float apart = in(i) - mean;
      squares += apart * apart;
    }
    rstd = 1.0f / sqrtf(block_sum(squares, sums) / count + eps);
  }
  __device__ inline float normed(u32 i) const { return (in(i) - mean) * rstd; }
  __device__ inline float scaled(u32 i, float normed) const { return normed * wide(weight[channel(i)]) + wide(bias[channel(i)]); }
};

template <typename T>
__device__ inline Group<T> group_of(const T *x, const T *weight, const T *bias, const float *shift, u32 pixels, u32 channels, u32 groups) {
  u32 image = blockIdx.x / groups, group = blockIdx.x % groups, per = channels / groups;
  Group<T> g;
  g.x = x + (size_t)image * pixels * channels;
  g.weight = weight;
  g.bias = bias;
  g.shift = shift ? shift + (size_t)image * channels : 0;
  g.channels = channels;
  g.per = per;
  g.first = group * per;
  g.count = pixels * per;
  g.mean = g.rstd = 0.0f;
  return g;
}

template <typename T>
__device__ inline void group_norm(const T *x, const T *weight, const T *bias, const float *shift, T *y, u32 pixels, u32 channels, u32 groups, float eps, int silu) {
  __shared__ float sums[32];
  Group<T> g = group_of(x, weight, bias, shift, pixels, channels, groups);
  g.measure(eps, sums);
  T *out = y + (g.x - x);
  for (u32 i = threadIdx.x; i < g.count; i += blockDim.x) {
    float z = g.scaled(i, g.normed(i));
    out[g.at(i)] = narrow<T>(silu ? value_of(SILU, z) : z);
  }
}

template <typename T>
__device__ inline void group_norm_backward(const T *x, const T *weight, const T *bias, const float *shift, const T *dy, T *dx, u32 pixels, u32 channels, u32 groups,
                                           float eps, int silu) {
  __shared__ float sums[32];
  Group<T> g = group_of(x, weight, bias, shift, pixels, channels, groups);
  g.measure(eps, sums);
  const T *upper = dy + (g.x - x);
  T *out = dx + (g.x - x);
  float sum = 0.0f, product = 0.0f;
  for (u32 i = threadIdx.x; i < g.count; i += blockDim.x) {
    float normed = g.normed(i), d = wide(upper[g.at(i)]);
    if (silu) d *= slope_of(SILU, g.scaled(i, normed));
    d *= wide(weight[g.channel(i)]);
    sum += d;
    product += d * normed;
  }
  sum = block_sum(sum, sums) / g.count;
  product = block_sum(product, sums) / g.count;
  for (u32 i = threadIdx.x; i < g.count; i += blockDim.x) {
    float normed = g.normed(i), d = wide(upper[g.at(i)]);
    if (silu) d *= slope_of(SILU, g.scaled(i, normed));
    d *= wide(weight[g.channel(i)]);
    out[g.at(i)] = narrow<T>(g.rstd * (d - sum - normed * product));
  }
}

// One warp normalises one row.
template <typename T>
__device__ inline void layer_norm(const T *x, const T *weight, const T *bias, const T *dy, T *out, u32 rows, u32 width, float eps) {
  u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T *from = x + (size_t)row * width;
  T *to = out + (size_t)row * width;
  float sum = 0.0f, squares = 0.0f;
  for (u32 i = lane; i < width; i += 32) sum += wide(from[i]);
  float mean = warp_sum(sum) / width;
  for (u32 i = lane; i < width; i += 32) {
    float apart = wide(from[i]) - mean;
    squares += apart * apart;
  }
  float rstd = 1.0f / sqrtf(warp_sum(squares) / width + eps);
  if (!dy) {
    for (u32 i = lane; i < width; i += 32) to[i] = narrow<T>((wide(from[i]) - mean) * rstd * wide(weight[i]) + wide(bias[i]));
    return;
  }
  const T *upper = dy + (size_t)row * width;
  float total = 0.0f, product = 0.0f;
  for (u32 i = lane; i < width; i += 32) {
    float d = wide(upper[i]) * wide(weight[i]);
    total += d;
    product += d * (wide(from[i]) - mean) * rstd;
  }
  total = warp_sum(total) / width;
  product = warp_sum(product) / width;
  for (u32 i = lane; i < width; i += 32) {
    float normed = (wide(from[i]) - mean) * rstd;
    to[i] = narrow<T>(rstd * (wide(upper[i]) * wide(weight[i]) - total - normed * product));
  }
}

// --- Pointwise ------------------------------------------------------------------------------------------------------------

// The function of each number or, with `dy`, its gradient.
template <typename T> __device__ inline void activation(const T *x, const T *dy, T *out, int function, u32 count) {
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    float in = wide(x[i]);
    out[i] = narrow<T>(dy ? wide(dy[i]) * slope_of(function, in) : value_of(function, in));
  }
}

// a · gelu(gate) of rows (a | gate) of 2 · width numbers or, with `dy` of width numbers, the gradient of the row. V numbers at a
// time; `width` and `count` are in these.
template <typename T, typename V> __device__ inline void geglu(const T *x, const T *dy, T *out, u32 width, u32 count) {
  const int n = sizeof(V) / sizeof(T);
  const V *from = (const V *)x, *upper = (const V *)dy;
  V *to = (V *)out;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    u32 at = i + i / width * width;
    V a = from[at], gate = from[at + width], first, second;
    if (dy) {
      V d = upper[i];
      for (int j = 0; j < n; j++) {
        float of = wide(d.x[j]), by = wide(gate.x[j]);
        first.x[j] = narrow<T>(of * value_of(GELU, by));
        second.x[j] = narrow<T>(of * wide(a.x[j]) * slope_of(GELU, by));
      }
      to[at] = first;
      to[at + width] = second;
    } else {
      for (int j = 0; j < n; j++) first.x[j] = narrow<T>(wide(a.x[j]) * value_of(GELU, wide(gate.x[j])));
      to[i] = first;
    }
  }
}

#define OF_EVERY_TYPE(T, NAME)                                                                                                                  \
  extern "C" __global__ void finish_##NAME(T *y, const T *bias, const T *other, u32 width, u32 count) { finish<T>(y, bias, other, width, count); } \
  extern "C" __global__ void group_norm_##NAME(const T *x, const T *weight, const T *bias, const float *shift, T *y, u32 pixels, u32 channels, \
                                               u32 groups, float eps, int silu) {                                                              \
    group_norm<T>(x, weight, bias, shift, y, pixels, channels, groups, eps, silu);                                                             \
  }                                                                                                                                            \
  extern "C" __global__ void group_norm_backward_##NAME(const T *x, const T *weight, const T *bias, const float *shift, const T *dy, T *dx,    \
                                                        u32 pixels, u32 channels, u32 groups, float eps, int silu) {                           \
    group_norm_backward<T>(x, weight, bias, shift, dy, dx, pixels, channels, groups, eps, silu);                                               \
  }                                                                                                                                            \
  extern "C" __global__ void layer_norm_##NAME(const T *x, const T *weight, const T *bias, const T *dy, T *out, u32 rows, u32 width, float eps) { \
    layer_norm<T>(x, weight, bias, dy, out, rows, width, eps);                                                                                 \
  }                                                                                                                                            \
  extern "C" __global__ void activation_##NAME(const T *x, const T *dy, T *out, int function, u32 count) { activation<T>(x, dy, out, function, count); } \
  extern "C" __global__ void geglu_##NAME(const T *x, const T *dy, T *out, u32 width, int packed, u32 count) {                                   \
    if (packed)                                                                                                                                \
      geglu<T, Pack<T>>(x, dy, out, width, count);                                                                                             \
    else                                                                                                                                       \
      geglu<T, One<T>>(x, dy, out, width, count);                                                                                              \
  }
OF_EVERY_TYPE(float, f32)
OF_EVERY_TYPE(__nv_bfloat16, bf16)
OF_EVERY_TYPE(__half, f16)

// What follows needs bf16 on tensor cores.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// --- Attention ------------------------------------------------------------------------------------------------------------
//
// The flash form: a block of 64 queries (or, for the gradients of keys and values, 64 keys) goes through all keys (or queries)
// 64 at a time, and no logit leaves the registers. A block has four warps, each with 16 rows. Of a 16×8 tile that tensor cores
// compute, thread `lane` has rows lane/4 and lane/4 + 8, columns 2 (lane%4) and the next.

#define TILE 64
#define LOG2E 1.4426950408889634f

#ifndef EMULATED
// d += a b: 16×16 by 16×8, sums in f32.
__device__ inline void multiply(float d[4], const u32 a[4], u32 b0, u32 b1, __nv_bfloat16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float d[4], const u32 a[4], u32 b0, u32 b1, __half) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8×8 matrices; lanes 8 i to 8 i + 7 point to the rows of the i-th. A thread gets two neighbours of row lane/4 each or, of
// the transposed, of column lane/4.
__device__ inline void load_matrices(u32 r[4], const void *row, bool transposed) {
  u32 at = (u32)__cvta_generic_to_shared(row);
  if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
#endif

template <typename T> __device__ inline u32 pair(float low, float high) {
  union { T x[2]; u32 bits; } both;
  both.x[0] = narrow<T>(low);
  both.x[1] = narrow<T>(high);
  return both.bits;
}

// Rows `first` to `first + 63` of one head in shared memory, with zeros beyond the last row and beyond the head's width.
template <typename T, int D>
__device__ inline void stage(T (*tile)[D + 8], const T *head, u32 first, u32 rows, u32 stride, u32 head_dim) {
  const int n = 16 / sizeof(T), packs = D / n;
  for (u32 i = threadIdx.x; i < TILE * packs; i += blockDim.x) {
    u32 row = i / packs, column = i % packs * n;
    Pack<T> pack = {};
    if (first + row < rows && column < head_dim) pack = *(const Pack<T> *)(head + (size_t)(first + row) * stride + column);
    *(Pack<T> *)&tile[row][column] = pack;
  }
}

// The 16 rows of a warp as the left operand of products over the head's width.
template <typename T, int D>
__device__ inline void rows_of_warp(u32 a[D / 16][4], const T *head, u32 first, u32 rows, u32 stride, u32 head_dim) {
  u32 lane = threadIdx.x % 32;
  for (int step = 0; step < D / 16; step++)
    for (int part = 0; part < 4; part++) {
      u32 row = first + lane / 4 + part % 2 * 8, column = step * 16 + lane % 4 * 2 + part / 2 * 8;
      a[step][part] = row < rows && column < head_dim ? *(const u32 *)(head + (size_t)row * stride + column) : 0u;
    }
}

// 16 rows by all 64 rows of a tile: `s += a tileᵀ`, in eight tiles of 8 columns.
template <typename T, int D> __device__ inline void by_rows(float s[8][4], const u32 a[D / 16][4], T (*tile)[D + 8]) {
  u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < D / 16; step++)
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      u32 b[4];
      load_matrices(b, &tile[n * 8 + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8], false);
      multiply(s[n], a[step], b[0], b[1], T());
      multiply(s[n + 1], a[step], b[2], b[3], T());
    }
}

// 16 rows of 64 numbers, as the last product left them, by a tile: `o += s tile`.
template <typename T, int D> __device__ inline void by_columns(float o[D / 8][4], const float s[8][4], T (*tile)[D + 8]) {
  u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < 4; step++) {
    u32 a[4] = {pair<T>(s[2 * step][0], s[2 * step][1]), pair<T>(s[2 * step][2], s[2 * step][3]), pair<T>(s[2 * step + 1][0], s[2 * step + 1][1]),
                pair<T>(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      u32 b[4];
      load_matrices(b, &tile[step * 16 + lane / 8 % 2 * 8 + lane % 8][n * 8 + lane / 16 * 8], true);
      multiply(o[n], a, b[0], b[1], T());
      multiply(o[n + 1], a, b[2], b[3], T());
    }
  }
}

// Writes a warp's 16 rows of a head.
template <typename T, int D>
__device__ inline void put_rows(T *head, const float o[D / 8][4], const float scale[2], u32 first, u32 rows, u32 stride, u32 head_dim) {
  u32 lane = threadIdx.x % 32;
  for (int n = 0; n < D / 8; n++)
    for (int half = 0; half < 2; half++) {
      u32 row = first + lane / 4 + half * 8, column = n * 8 + lane % 4 * 2;
      if (row < rows && column < head_dim)
        *(u32 *)(head + (size_t)row * stride + column) = pair<T>(o[n][2 * half] * scale[half], o[n][2 * half + 1] * scale[half]);
    }
}

__device__ inline float finite(float x) { return fminf(fmaxf(x, -3.402823466e38f), 3.402823466e38f); }

// A query's largest number, or the sum, over the four threads that have it.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// The result and, for the backward pass, each query's largest logit and the logarithm of its sum of exponentials.
// Grid: (queries / 64, heads, batch).
template <typename T, int D>
__device__ inline void attend(const T *query, const T *key, const T *value, const float *bias, T *out, float2 *softmax, u32 queries, u32 keys, u32 heads,
                              u32 head_dim, float scale) {
  __shared__ __align__(16) T k_tile[TILE][D + 8];
  __shared__ __align__(16) T v_tile[TILE][D + 8];
  u32 stride = heads * head_dim, head = blockIdx.y, image = blockIdx.z;
  u32 lane = threadIdx.x % 32, first = blockIdx.x * TILE + threadIdx.x / 32 * 16;
  const T *k = key + (size_t)image * keys * stride + head * head_dim, *v = value + (size_t)image * keys * stride + head * head_dim;
  size_t q_start = (size_t)image * queries * stride + head * head_dim;
  u32 q[D / 16][4];
  rows_of_warp<T, D>(q, query + q_start, first, queries, stride, head_dim);
  float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  for (u32 start = 0; start < keys; start += TILE) {
    __syncthreads();
    stage<T, D>(k_tile, k, start, keys, stride, head_dim);
    stage<T, D>(v_tile, v, start, keys, stride, head_dim);
    __syncthreads();
    float s[8][4] = {};
    by_rows<T, D>(s, q, k_tile);
    float now[2] = {most[0], most[1]};
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 column = start + n * 8 + lane % 4 * 2 + i % 2, row = first + lane / 4 + i / 2 * 8;
        float logit = s[n][i] * scale;
        if (bias && column < keys && row < queries) logit += finite(bias[(size_t)row * keys + column]);
        s[n][i] = column < keys ? logit : -INFINITY;
        now[i / 2] = fmaxf(now[i / 2], s[n][i]);
      }
    for (int half = 0; half < 2; half++) {
      now[half] = quad_max(now[half]);
      float kept = exp2f((most[half] - now[half]) * LOG2E);
      most[half] = now[half];
      sum[half] *= kept;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        o[n][2 * half] *= kept;
        o[n][2 * half + 1] *= kept;
      }
    }
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        s[n][i] = exp2f((s[n][i] - most[i / 2]) * LOG2E);
        sum[i / 2] += s[n][i];
      }
    by_columns<T, D>(o, s, v_tile);
  }
  float inverse[2];
  for (int half = 0; half < 2; half++) {
    sum[half] = quad_sum(sum[half]);
    inverse[half] = 1.0f / sum[half];
    u32 row = first + lane / 4 + half * 8;
    if (softmax && lane % 4 == 0 && row < queries) softmax[((size_t)image * heads + head) * queries + row] = make_float2(most[half], logf(sum[half]));
  }
  put_rows<T, D>(out + q_start, o, inverse, first, queries, stride, head_dim);
}

// rowsum(dO ∘ O) of each query and head: one warp each.
template <typename T>
__device__ inline void attention_dots(const T *out, const T *d_out, float *dots, u32 queries, u32 heads, u32 head_dim, u32 count) {
  u32 i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (i >= count) return;
  u32 row = i % queries, head = i / queries % heads, image = i / queries / heads;
  size_t at = ((size_t)image * queries + row) * heads * head_dim + head * head_dim;
  float sum = 0.0f;
  for (u32 column = lane; column < head_dim; column += 32) sum += wide(out[at + column]) * wide(d_out[at + column]);
  sum = warp_sum(sum);
  if (lane == 0) dots[i] = sum;
}

// dQ = scale · dS K with dS = P ∘ (dO Vᵀ − dots). Grid: (queries / 64, heads, batch).
template <typename T, int D>
__device__ inline void attention_queries(const T *query, const T *key, const T *value, const float *bias, const T *d_out, const float2 *softmax,
                                         const float *dots, T *d_query, u32 queries, u32 keys, u32 heads, u32 head_dim, float scale) {
  __shared__ __align__(16) T k_tile[TILE][D + 8];
  __shared__ __align__(16) T v_tile[TILE][D + 8];
  u32 stride = heads * head_dim, head = blockIdx.y, image = blockIdx.z;
  u32 lane = threadIdx.x % 32, first = blockIdx.x * TILE + threadIdx.x / 32 * 16;
  const T *k = key + (size_t)image * keys * stride + head * head_dim, *v = value + (size_t)image * keys * stride + head * head_dim;
  size_t q_start = (size_t)image * queries * stride + head * head_dim, s_start = ((size_t)image * heads + head) * queries;
  u32 q[D / 16][4], d_o[D / 16][4];
  rows_of_warp<T, D>(q, query + q_start, first, queries, stride, head_dim);
  rows_of_warp<T, D>(d_o, d_out + q_start, first, queries, stride, head_dim);
  float2 of_row[2];
  float dot[2];
  for (int half = 0; half < 2; half++) {
    u32 row = first + lane / 4 + half * 8;
    of_row[half] = row < queries ? softmax[s_start + row] : make_float2(0.0f, INFINITY);
    dot[half] = row < queries ? dots[s_start + row] : 0.0f;
  }
  float d_q[D / 8][4] = {};
  for (u32 start = 0; start < keys; start += TILE) {
    __syncthreads();
    stage<T, D>(k_tile, k, start, keys, stride, head_dim);
    stage<T, D>(v_tile, v, start, keys, stride, head_dim);
    __syncthreads();
    float s[8][4] = {}, d_p[8][4] = {};
    by_rows<T, D>(s, q, k_tile);
    by_rows<T, D>(d_p, d_o, v_tile);
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 column = start + n * 8 + lane % 4 * 2 + i % 2, row = first + lane / 4 + i / 2 * 8;
        float logit = s[n][i] * scale;
        if (bias && column < keys && row < queries) logit += finite(bias[(size_t)row * keys + column]);
        float p = column < keys ? exp2f((logit - of_row[i / 2].x - of_row[i / 2].y) * LOG2E) : 0.0f;
        s[n][i] = p * (d_p[n][i] - dot[i / 2]);
      }
    by_columns<T, D>(d_q, s, k_tile);
  }
  float scales[2] = {scale, scale};
  put_rows<T, D>(d_query + q_start, d_q, scales, first, queries, stride, head_dim);
}

// dV = Pᵀ dO and dK = scale · dSᵀ Q. Grid: (keys / 64, heads, batch).
template <typename T, int D>
__device__ inline void attention_keys(const T *query, const T *key, const T *value, const float *bias, const T *d_out, const float2 *softmax, const float *dots,
                                      T *d_key, T *d_value, u32 queries, u32 keys, u32 heads, u32 head_dim, float scale) {
  __shared__ __align__(16) T q_tile[TILE][D + 8];
  __shared__ __align__(16) T o_tile[TILE][D + 8];
  __shared__ float2 of_row[TILE];
  __shared__ float dot[TILE];
  u32 stride = heads * head_dim, head = blockIdx.y, image = blockIdx.z;
  u32 lane = threadIdx.x % 32, first = blockIdx.x * TILE + threadIdx.x / 32 * 16;
  size_t k_start = (size_t)image * keys * stride + head * head_dim;
  size_t q_start = (size_t)image * queries * stride + head * head_dim, s_start = ((size_t)image * heads + head) * queries;
  u32 k[D / 16][4], v[D / 16][4];
  rows_of_warp<T, D>(k, key + k_start, first, keys, stride, head_dim);
  rows_of_warp<T, D>(v, value + k_start, first, keys, stride, head_dim);
  float d_k[D / 8][4] = {}, d_v[D / 8][4] = {};
  for (u32 start = 0; start < queries; start += TILE) {
    __syncthreads();
    stage<T, D>(q_tile, query + q_start, start, queries, stride, head_dim);
    stage<T, D>(o_tile, d_out + q_start, start, queries, stride, head_dim);
    if (threadIdx.x < TILE) {
      u32 row = start + threadIdx.x;
      of_row[threadIdx.x] = row < queries ? softmax[s_start + row] : make_float2(0.0f, INFINITY);
      dot[threadIdx.x] = row < queries ? dots[s_start + row] : 0.0f;
    }
    __syncthreads();
    float s[8][4] = {}, d_p[8][4] = {};
    by_rows<T, D>(s, k, q_tile);
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 at = n * 8 + lane % 4 * 2 + i % 2, row = first + lane / 4 + i / 2 * 8;
        float logit = s[n][i] * scale;
        if (bias && row < keys && start + at < queries) logit += finite(bias[(size_t)(start + at) * keys + row]);
        s[n][i] = start + at < queries ? exp2f((logit - of_row[at].x - of_row[at].y) * LOG2E) : 0.0f;
      }
    by_columns<T, D>(d_v, s, o_tile);
    by_rows<T, D>(d_p, v, o_tile);
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) s[n][i] *= d_p[n][i] - dot[n * 8 + lane % 4 * 2 + i % 2];
    by_columns<T, D>(d_k, s, q_tile);
  }
  float one[2] = {1.0f, 1.0f}, scales[2] = {scale, scale};
  put_rows<T, D>(d_value + k_start, d_v, one, first, keys, stride, head_dim);
  put_rows<T, D>(d_key + k_start, d_k, scales, first, keys, stride, head_dim);
}

#define ATTENTION(T, NAME, D)                                                                                                                     \
  extern "C" __global__ void __launch_bounds__(128)                                                                                              \
      attention_##D##_##NAME(const T *query, const T *key, const T *value, const float *bias, T *out, float2 *softmax, u32 queries, u32 keys,    \
                             u32 heads, u32 head_dim, float scale) {                                                                             \
    attend<T, D>(query, key, value, bias, out, softmax, queries, keys, heads, head_dim, scale);                                                  \
  }                                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(128)                                                                                              \
      attention_queries_##D##_##NAME(const T *query, const T *key, const T *value, const float *bias, const T *d_out, const float2 *softmax,     \
                                     const float *dots, T *d_query, u32 queries, u32 keys, u32 heads, u32 head_dim, float scale) {               \
    attention_queries<T, D>(query, key, value, bias, d_out, softmax, dots, d_query, queries, keys, heads, head_dim, scale);                      \
  }                                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(128)                                                                                              \
      attention_keys_##D##_##NAME(const T *query, const T *key, const T *value, const float *bias, const T *d_out, const float2 *softmax,        \
                                  const float *dots, T *d_key, T *d_value, u32 queries, u32 keys, u32 heads, u32 head_dim, float scale) {        \
    attention_keys<T, D>(query, key, value, bias, d_out, softmax, dots, d_key, d_value, queries, keys, heads, head_dim, scale);                  \
  }
#define ATTENTIONS(T, NAME)                                                                                                                     \
  ATTENTION(T, NAME, 16) ATTENTION(T, NAME, 32) ATTENTION(T, NAME, 48) ATTENTION(T, NAME, 64) ATTENTION(T, NAME, 80) ATTENTION(T, NAME, 160)    \
  extern "C" __global__ void attention_dots_##NAME(const T *out, const T *d_out, float *dots, u32 queries, u32 heads, u32 head_dim, u32 count) { \
    attention_dots<T>(out, d_out, dots, queries, heads, head_dim, count);                                                                       \
  }
ATTENTIONS(__nv_bfloat16, bf16)
ATTENTIONS(__half, f16)
#endif
