// A CUDA driver, cuBLAS, cuBLASLt and cuRAND without a GPU, as far as the engine's operations call them: memory is the host's, our kernels
// run in the emulator, and the few of candle's kernels that surround them are written out here. With it the whole way from an
// operation in Rust to its kernel's arguments is run on any machine (`.ci/cuda-emulated`). A kernel that is not here is named.
#define EMULATED
#include "kernels.cu"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <utility>

static bool trace() { return getenv("FAKE_CUDA_TRACE") != nullptr; }

// --- Calls of kernels -------------------------------------------------------------------------------------------------------

typedef std::function<void()> Call;
typedef std::function<Call(void **)> Kernel;

template <typename... A, size_t... I> Kernel kernel_of(void (*f)(A...), std::index_sequence<I...>) {
  return [f](void **given) -> Call {
    // The driver copies arguments at the launch.
    auto arguments = std::make_tuple(*(typename std::decay<A>::type *)given[I]...);
    return [f, arguments] { f(std::get<I>(arguments)...); };
  };
}
template <typename... A> Kernel kernel_of(void (*f)(A...)) { return kernel_of(f, std::make_index_sequence<sizeof...(A)>()); }

static size_t place(size_t index, size_t dims, const size_t *shape, const size_t *strides) {
  size_t at = 0;
  for (size_t d = dims; d-- > 0; index /= shape[d]) at += index % shape[d] * strides[d];
  return at;
}

// candle's kernels, as plain functions: the first thread of the first block does all of the work, and there are no others.
static bool is_first() { return threadIdx.x == 0; }

template <typename T> static void ucopy(size_t count, size_t dims, const size_t *info, const T *in, T *out) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) out[i] = in[info ? place(i, dims, info, info + dims) : i];
}
template <typename T> static void copy2d(const T *in, T *out, uint32_t rows, uint32_t columns, uint32_t in_stride, uint32_t out_stride) {
  if (!is_first()) return;
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < columns; column++) out[row * out_stride + column] = in[row * in_stride + column];
}
template <typename T, int OP> static void binary(size_t count, size_t dims, const size_t *info, const T *a, const T *b, T *out) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) {
    float x = wide(a[info ? place(i, dims, info, info + dims) : i]), y = wide(b[info ? place(i, dims, info, info + 2 * dims) : i]);
    out[i] = narrow<T>(OP == 0 ? x + y : OP == 1 ? x - y : OP == 2 ? x * y : OP == 3 ? x / y : OP == 4 ? fmaxf(x, y) : fminf(x, y));
  }
}
template <typename S, typename T> static void cast(size_t count, size_t dims, const size_t *info, const S *in, T *out) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) out[i] = narrow<T>(wide(in[info ? place(i, dims, info, info + dims) : i]));
}
template <typename T> static void const_set(size_t count, size_t dims, const size_t *info, T value, T *out) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) out[info ? place(i, dims, info, info + dims) : i] = value;
}
enum Unary { NEG, RECIP, EXP, ERF, SQR, SQRT };
template <typename T, int OP> static void unary(size_t count, size_t dims, const size_t *info, const T *in, T *out) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) {
    float x = wide(in[info ? place(i, dims, info, info + dims) : i]);
    out[i] = narrow<T>(OP == NEG ? -x : OP == RECIP ? 1 / x : OP == EXP ? expf(x) : OP == ERF ? erff(x) : OP == SQR ? x * x : sqrtf(x));
  }
}
template <typename T> static void affine(size_t count, size_t dims, const size_t *info, const T *in, T *out, T mul, T add) {
  if (!is_first()) return;
  for (size_t i = 0; i < count; i++) out[i] = narrow<T>(wide(in[info ? place(i, dims, info, info + dims) : i]) * wide(mul) + wide(add));
}
// Over the last numbers of the shape, `each` of them for a result.
template <typename T, bool MAX> static void fast(size_t count, size_t each, size_t dims, const size_t *info, const T *in, T *out) {
  if (!is_first()) return;
  for (size_t start = 0; start < count; start += each) {
    float result = MAX ? -INFINITY : 0;
    for (size_t i = start; i < start + each; i++) {
      float x = wide(in[place(i, dims, info, info + dims)]);
      result = MAX ? std::max(result, x) : result + x;
    }
    out[start / each] = narrow<T>(result);
  }
}
// The same, told the number of results.
template <typename T> static void fast_small(size_t results, size_t each, size_t dims, const size_t *info, const T *in, T *out) {
  fast<T, false>(results * each, each, dims, info, in, out);
}

#define EACH(NAME) {#NAME, kernel_of(NAME)},
#define OURS(T)                                                                                                                            \
  EACH(unfold_##T) EACH(finish_##T) EACH(group_norm_##T) EACH(group_norm_backward_##T) EACH(layer_norm_##T) EACH(activation_##T) EACH(geglu_##T)
#define WIDTH(D, T) EACH(attention_##D##_##T) EACH(attention_queries_##D##_##T) EACH(attention_keys_##D##_##T)
#define ATTEND(T) EACH(attention_dots_##T) WIDTH(16, T) WIDTH(32, T) WIDTH(48, T) WIDTH(64, T) WIDTH(80, T) WIDTH(160, T)
#define CANDLES(C, T)                                                                                                                      \
  {"ucopy_" #T, kernel_of(ucopy<C>)}, {"copy2d_" #T, kernel_of(copy2d<C>)}, {"badd_" #T, kernel_of(binary<C, 0>)},                          \
      {"bsub_" #T, kernel_of(binary<C, 1>)}, {"bmul_" #T, kernel_of(binary<C, 2>)}, {"bdiv_" #T, kernel_of(binary<C, 3>)},                  \
      {"bmaximum_" #T, kernel_of(binary<C, 4>)}, {"bminimum_" #T, kernel_of(binary<C, 5>)},                                                  \
      {"cast_f32_" #T, kernel_of(cast<float, C>)}, {"cast_bf16_" #T, kernel_of(cast<__nv_bfloat16, C>)},                                    \
      {"cast_f16_" #T, kernel_of(cast<__half, C>)}, {"const_set_" #T, kernel_of(const_set<C>)},                                     \
      {"affine_" #T, kernel_of(affine<C>)}, {"uneg_" #T, kernel_of(unary<C, NEG>)}, {"urecip_" #T, kernel_of(unary<C, RECIP>)},              \
      {"uexp_" #T, kernel_of(unary<C, EXP>)}, {"uerf_" #T, kernel_of(unary<C, ERF>)}, {"usqr_" #T, kernel_of(unary<C, SQR>)},                \
      {"usqrt_" #T, kernel_of(unary<C, SQRT>)}, {"fast_sum_" #T, kernel_of(fast<C, false>)}, {"fast_max_" #T, kernel_of(fast<C, true>)},     \
      {"fast_sum_small_" #T, kernel_of(fast_small<C>)},

struct Loaded {
  std::string name;
  Kernel kernel;
  bool is_ours;
};
static std::map<std::string, Kernel> ours = {OURS(f32) OURS(bf16) OURS(f16) ATTEND(bf16) ATTEND(f16)};
static std::map<std::string, Kernel> candles = {CANDLES(float, f32) CANDLES(__nv_bfloat16, bf16) CANDLES(__half, f16)};
static std::map<std::string, Loaded *> functions;
static std::map<std::string, size_t> launches;
static std::mutex one_at_a_time;

static void at_end() {
  if (!trace()) return;
  for (auto &row : launches) fprintf(stderr, "%8zu %s\n", row.second, row.first.c_str());
}

// --- The driver -------------------------------------------------------------------------------------------------------------

typedef int Result;
enum { SUCCESS = 0, NOT_FOUND = 500 };

extern "C" {
Result cuInit(unsigned) {
  atexit(at_end);
  return SUCCESS;
}
Result cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int *device, int) { return *device = 0, SUCCESS; }
Result cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "emulated"), SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int) {
  // Compute capability 8.0, memory pools; nothing else is asked for.
  *value = attribute == 75 ? 8 : attribute == 76 ? 0 : 1;
  return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = (void *)1, SUCCESS; }
Result cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
Result cuMemPoolTrimTo(void *, size_t) { return SUCCESS; }
Result cuCtxSetCurrent(void *) { return SUCCESS; }
Result cuCtxGetCurrent(void **context) { return *context = (void *)1, SUCCESS; }
Result cuCtxSynchronize() { return SUCCESS; }
Result cuStreamCreate(void **stream, unsigned) { return *stream = (void *)1, SUCCESS; }
Result cuStreamDestroy_v2(void *) { return SUCCESS; }
Result cuStreamSynchronize(void *) { return SUCCESS; }
Result cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
Result cuStreamIsCapturing(void *, int *status) { return *status = 0, SUCCESS; }
Result cuEventCreate(void **event, unsigned) { return *event = (void *)1, SUCCESS; }
Result cuEventRecord(void *, void *) { return SUCCESS; }
Result cuEventSynchronize(void *) { return SUCCESS; }
Result cuEventDestroy_v2(void *) { return SUCCESS; }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { return *available = *total = (size_t)8 << 30, SUCCESS; }
Result cuMemAlloc_v2(void **memory, size_t bytes) {
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
  // What a kernel leaves unwritten shows as NaN.
  memset(*memory, 0xff, bytes);
  return SUCCESS;
}
Result cuMemAllocAsync(void **memory, size_t bytes, void *) { return cuMemAlloc_v2(memory, bytes); }
Result cuMemFree_v2(void *memory) { return free(memory), SUCCESS; }
Result cuMemFreeAsync(void *memory, void *) { return free(memory), SUCCESS; }
Result cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *) { return memcpy(to, from, bytes), SUCCESS; }
Result cuMemsetD8Async(void *to, unsigned char value, size_t bytes, void *) { return memset(to, value, bytes), SUCCESS; }
Result cuModuleLoadData(void **module, const void *) { return *module = (void *)1, SUCCESS; }
Result cuModuleUnload(void *) { return SUCCESS; }
Result cuModuleGetFunction(void **function, void *, const char *name) {
  std::lock_guard<std::mutex> guard(one_at_a_time);
  bool is_ours = ours.count(name);
  auto known = is_ours ? ours.find(name) : candles.find(name);
  if (known == candles.end()) {
    fprintf(stderr, "the emulated driver has no kernel %s\n", name);
    return NOT_FOUND;
  }
  Loaded *&kept = functions[name];
  if (!kept) kept = new Loaded{name, known->second, is_ours};
  return *function = kept, SUCCESS;
}
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned, unsigned, unsigned, void *, void **arguments, void **) {
  std::lock_guard<std::mutex> guard(one_at_a_time);
  Loaded *f = (Loaded *)function;
  launches[f->name]++;
  if (trace()) fprintf(stderr, "%s: grid %u %u %u, %u threads\n", f->name.c_str(), gx, gy, gz, threads);
  if (!f->is_ours) gx = gy = gz = 1, threads = 32;
  launch({gx, gy, gz}, (threads + 31) / 32 * 32, f->kernel(arguments));
  return SUCCESS;
}
Result cuGetErrorName(Result, const char **text) { return *text = "EMULATED_ERROR", SUCCESS; }
Result cuGetErrorString(Result, const char **text) { return *text = "an error of the emulated driver", SUCCESS; }

}

// --- cuBLAS, cuBLASLt and cuRAND ---------------------------------------------------------------------------------------------

// Column-major; types by their numbers in library_types.h.
struct Matrix {
  int type;
  const void *numbers;
  long long stride;
  bool is_transposed = false;

  size_t size() const { return type == 0 ? 4 : 2; }
  Matrix from(long long start) const { return {type, (const char *)numbers + start * size(), stride, is_transposed}; }
  size_t at(size_t row, size_t column) const { return is_transposed ? column + row * stride : row + column * stride; }
  float get(size_t row, size_t column) const { return read(at(row, column)); }
  float read(size_t i) const {
    return type == 0 ? ((const float *)numbers)[i] : type == 14 ? wide(((const __nv_bfloat16 *)numbers)[i]) : wide(((const __half *)numbers)[i]);
  }
  void put(size_t row, size_t column, float value) const {
    size_t i = at(row, column);
    if (type == 0) ((float *)numbers)[i] = value;
    else if (type == 14) ((__nv_bfloat16 *)numbers)[i] = narrow<__nv_bfloat16>(value);
    else ((__half *)numbers)[i] = narrow<__half>(value);
  }
};

// result = alpha a b + beta c + bias of each row, with sums in f32. Like cuBLAS, it does not read `c` where beta is 0.
static void product(std::array<int, 3> sizes, float alpha, Matrix a, Matrix b, float beta, Matrix c, const void *bias, Matrix result) {
  auto [m, n, k] = sizes;
  for (int column = 0; column < n; column++)
    for (int row = 0; row < m; row++) {
      float sum = 0;
      for (int j = 0; j < k; j++) sum += a.get(row, j) * b.get(j, column);
      sum *= alpha;
      if (beta != 0) sum += beta * c.get(row, column);
      if (bias) sum += Matrix{result.type, bias, 0}.read(row);
      result.put(row, column, sum);
    }
}

enum { INVALID = 7, BIAS = 4, CHOSEN = 77 };

extern "C" {

Result cublasCreate_v2(void **handle) { return *handle = (void *)1, SUCCESS; }
Result cublasDestroy_v2(void *) { return SUCCESS; }
Result cublasSetStream_v2(void *, void *) { return SUCCESS; }
Result cublasGemmStridedBatchedEx(void *, int trans_a, int trans_b, int m, int n, int k, const void *alpha, const void *a, int type, int lda, long long stride_a,
                                  const void *b, int, int ldb, long long stride_b, const void *, void *c, int, int ldc, long long stride_c, int batch, int, int) {
  Matrix left = {type, a, lda, trans_a == 1}, right = {type, b, ldb, trans_b == 1}, result = {type, c, ldc};
  for (long long i = 0; i < batch; i++)
    product({m, n, k}, *(const float *)alpha, left.from(i * stride_a), right.from(i * stride_b), 0, result.from(i * stride_c), nullptr, result.from(i * stride_c));
  return SUCCESS;
}

// Of cuBLASLt what is called: a product of two matrices, with a bias and another matrix. What does not fit together is refused.
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
struct Description {
  int transposed[2] = {0, 0};
  int epilogue = 1;
  const void *bias = nullptr;
};
struct Choice {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static Result set(void *place, size_t size, const void *value, size_t given) { return size == given ? (memcpy(place, value, size), SUCCESS) : INVALID; }
static bool fit(const Description &d, const Layout &a, const Layout &b, const Layout &c, const Layout &result) {
  uint64_t m = d.transposed[0] ? a.columns : a.rows, k = d.transposed[0] ? a.rows : a.columns;
  uint64_t n = d.transposed[1] ? b.rows : b.columns, of_b = d.transposed[1] ? b.columns : b.rows;
  for (const Layout *x : {&a, &b, &c, &result})
    if (x->type != a.type || x->stride < (int64_t)x->rows) return false;
  return k == of_b && c.rows == m && c.columns == n && result.rows == m && result.columns == n && (d.epilogue == BIAS) == (d.bias != nullptr);
}
Result cublasLtCreate(void **handle) { return *handle = (void *)1, SUCCESS; }
Result cublasLtDestroy(void *) { return SUCCESS; }
Result cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  return *layout = new Layout{type, rows, columns, stride}, SUCCESS;
}
Result cublasLtMatrixLayoutDestroy(Layout *layout) { return delete layout, SUCCESS; }
Result cublasLtMatmulDescCreate(Description **description, int compute, int scale) {
  // Sums and factors of them in f32.
  return compute == 68 && scale == 0 ? (*description = new Description, SUCCESS) : INVALID;
}
Result cublasLtMatmulDescDestroy(Description *description) { return delete description, SUCCESS; }
Result cublasLtMatmulDescSetAttribute(Description *d, int attribute, const void *value, size_t size) {
  if (attribute == 3 || attribute == 4) return set(&d->transposed[attribute - 3], sizeof(int), value, size);
  if (attribute == 7) return set(&d->epilogue, sizeof(int), value, size);
  if (attribute == 8) return set(&d->bias, sizeof(void *), value, size);
  return INVALID;
}
Result cublasLtMatmulPreferenceCreate(void **preference) { return *preference = (void *)1, SUCCESS; }
Result cublasLtMatmulPreferenceDestroy(void *) { return SUCCESS; }
Result cublasLtMatmulPreferenceSetAttribute(void *, int attribute, const void *, size_t size) {
  // The workspace is a size, the least alignments are numbers of 32 bits.
  return size == (attribute == 1 ? 8 : 4) ? SUCCESS : INVALID;
}
Result cublasLtMatmulAlgoGetHeuristic(void *, Description *d, Layout *a, Layout *b, Layout *c, Layout *result, void *, int, Choice *choice, int *count) {
  *choice = Choice{{CHOSEN}, 256, SUCCESS};
  *count = 1;
  return fit(*d, *a, *b, *c, *result) ? SUCCESS : INVALID;
}
Result cublasLtMatmul(void *, Description *d, const float *alpha, const void *a, Layout *of_a, const void *b, Layout *of_b, const float *beta, const void *c, Layout *of_c,
                      void *result, Layout *of_result, const uint64_t *algorithm, void *workspace, size_t bytes, void *) {
  std::lock_guard<std::mutex> guard(one_at_a_time);
  if (!fit(*d, *of_a, *of_b, *of_c, *of_result) || *algorithm != CHOSEN || !workspace || bytes < 256) return INVALID;
  launches["cublasLtMatmul"]++;
  int k = d->transposed[0] ? of_a->rows : of_a->columns;
  product({(int)of_result->rows, (int)of_result->columns, k}, *alpha, {of_a->type, a, of_a->stride, d->transposed[0] == 1}, {of_b->type, b, of_b->stride, d->transposed[1] == 1},
          *beta, {of_c->type, c, of_c->stride}, d->bias, {of_result->type, result, of_result->stride});
  return SUCCESS;
}
Result curandCreateGenerator(void **generator, int) { return *generator = (void *)1, SUCCESS; }
Result curandDestroyGenerator(void *) { return SUCCESS; }
Result curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return SUCCESS; }
Result curandSetStream(void *, void *) { return SUCCESS; }
}
