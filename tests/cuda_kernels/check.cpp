// Runs every kernel of `src/engine/ops/cuda/kernels.cu` on the CPU and compares it with plain code in f64: values, gradients, and
// for each gradient finite differences of the plain code's values. Prints a line for each kernel; fails if one is too far off.
#define EMULATED
#include "kernels.cu"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

using std::vector;
typedef vector<double> Numbers;

static bool all_hold = true;

static void report(const std::string &what, double error, double bound) {
  bool holds = error <= bound; // false for NaN
  printf("%-58s  %9.2e  of %8.1e  %s\n", what.c_str(), error, bound, holds ? "holds" : "FAILS");
  all_hold = all_hold && holds;
}

static uint64_t state = 1;
static double next() {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return (double)(state >> 11) / (double)(1ull << 52) - 1.0;
}
static Numbers numbers(size_t count, double scale = 1.0) {
  Numbers x(count);
  for (double &value : x) value = next() * scale;
  return x;
}

// What a type holds of numbers, and what the reference therefore begins with.
template <typename T> static vector<T> stored(const Numbers &x) {
  vector<T> y;
  for (double value : x) y.push_back(narrow<T>((float)value));
  return y;
}
template <typename T> static Numbers read(const vector<T> &x) {
  Numbers y;
  for (T value : x) y.push_back(wide(value));
  return y;
}
template <typename T> static Numbers rounded(const Numbers &x) { return read(stored<T>(x)); }

// The largest difference, of the largest number.
static double error(const Numbers &ours, const Numbers &theirs) {
  double apart = 0, largest = 0;
  if (ours.size() != theirs.size()) return INFINITY;
  for (size_t i = 0; i < ours.size(); i++) {
    if (!std::isfinite(ours[i])) return INFINITY;
    apart = std::max(apart, std::fabs(ours[i] - theirs[i]));
    largest = std::max(largest, std::fabs(theirs[i]));
  }
  return apart > 0 ? apart / largest : 0;
}

template <typename T> static double bound();
template <> double bound<float>() { return 5e-6; }
template <> double bound<__nv_bfloat16>() { return 1.5e-2; }
template <> double bound<__half>() { return 2e-3; }
template <typename T> static const char *name();
template <> const char *name<float>() { return "f32"; }
template <> const char *name<__nv_bfloat16>() { return "bf16"; }
template <> const char *name<__half>() { return "f16"; }

// The gradients of Σ pull ∘ f(inputs) against its finite differences, at some places of each input.
static void differentiate(const std::string &what, const vector<Numbers> &inputs, const Numbers &pull,
                          const std::function<Numbers(const vector<Numbers> &)> &f, const vector<Numbers> &gradients) {
  const double step = 1e-5;
  double worst = 0;
  auto pulled = [&](const vector<Numbers> &at) {
    Numbers y = f(at);
    double sum = 0;
    for (size_t i = 0; i < y.size(); i++) sum += y[i] * pull[i];
    return sum;
  };
  for (size_t input = 0; input < gradients.size(); input++)
    for (size_t at = 0; at < inputs[input].size(); at += inputs[input].size() / 5 + 1) {
      vector<Numbers> moved = inputs;
      moved[input][at] += step;
      double above = pulled(moved);
      moved[input][at] -= 2 * step;
      double slope = (above - pulled(moved)) / (2 * step);
      worst = std::max(worst, std::fabs(slope - gradients[input][at]) / (1 + std::fabs(slope)));
    }
  report(what + ", reference by finite differences", worst, 1e-6);
}

// Starts where a pack may be read from: tensors of the device begin at multiples of 256 bytes.
template <typename T> struct Aligned {
  vector<Pack<T>> packs;
  size_t count;
  explicit Aligned(const Numbers &x) : packs(x.size() * sizeof(T) / 16 + 1), count(x.size()) {
    vector<T> values = stored<T>(x);
    memcpy((void *)packs.data(), values.data(), values.size() * sizeof(T));
  }
  T *data() { return (T *)packs.data(); }
  Numbers numbers() { return read(vector<T>(data(), data() + count)); }
};

// --- Convolution ------------------------------------------------------------------------------------------------------------

template <typename T, typename F> static void check_unfold(F *kernel, u32 channels, u32 stride, int top, int left, u32 height, u32 width, bool backward) {
  const u32 images = 2, size = 3;
  u32 bottom = 1, right = 1;
  u32 rows = (height + top + bottom - size) / stride + 1, columns = (width + left + right - size) / stride + 1;
  // Backwards, the result's gradient is read for each pixel of the image.
  u32 in_h = backward ? rows : height, in_w = backward ? columns : width, out_h = backward ? height : rows, out_w = backward ? width : columns;
  Numbers x = rounded<T>(numbers((size_t)images * in_h * in_w * channels));
  size_t count = (size_t)images * out_h * out_w * size * size * channels;
  Numbers expected(count);
  for (u32 i = 0; i < images; i++)
    for (u32 y = 0; y < in_h; y++)
      for (u32 x_ = 0; x_ < in_w; x_++)
        for (u32 ky = 0; ky < size; ky++)
          for (u32 kx = 0; kx < size; kx++) {
            // Written from the other side than the kernel: where each number goes, not where it comes from.
            long to_y = backward ? (long)y * stride + ky - top : (long)y + top - ky;
            long to_x = backward ? (long)x_ * stride + kx - left : (long)x_ + left - kx;
            if (!backward && (to_y < 0 || to_x < 0 || to_y % stride || to_x % stride)) continue;
            if (!backward) to_y /= stride, to_x /= stride;
            if (to_y < 0 || to_x < 0 || to_y >= out_h || to_x >= out_w) continue;
            for (u32 c = 0; c < channels; c++)
              expected[((((size_t)i * out_h + to_y) * out_w + to_x) * size * size + ky * size + kx) * channels + c] = x[(((size_t)i * in_h + y) * in_w + x_) * channels + c];
          }
  Aligned<T> in(x), out((Numbers(count)));
  bool packed = channels % (16 / sizeof(T)) == 0;
  u32 items = packed ? count / (16 / sizeof(T)) : count;
  launch({7}, 64, [&] { kernel(in.data(), out.data(), in_h, in_w, channels, out_h, out_w, size, stride, top, left, backward, packed, items); });
  report(std::string("unfold, ") + name<T>() + ", " + std::to_string(channels) + " channels, stride " + std::to_string(stride) + (backward ? ", backward" : ""), error(out.numbers(), expected), 0);
}

// --- Norms and pointwise ------------------------------------------------------------------------------------------------------

static double silu_of(double x) { return x / (1 + std::exp(-x)); }
static double function_of(int function, double x) {
  if (function == SILU) return silu_of(x);
  if (function == GELU) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  return x / (1 + std::exp(-1.702 * x));
}
static double derivative_of(int function, double x) {
  const double step = 1e-5;
  return (function_of(function, x + step) - function_of(function, x - step)) / (2 * step);
}

// Groups of channels over the pixels of an image, or rows with one group and one pixel.
static Numbers norm_reference(const Numbers &x, const Numbers &w, const Numbers &b, const Numbers &shift, u32 images, u32 pixels, u32 channels, u32 groups, double eps, bool silu) {
  Numbers y(x.size());
  u32 per = channels / groups;
  for (u32 i = 0; i < images; i++)
    for (u32 g = 0; g < groups; g++) {
      auto at = [&](u32 p, u32 c) { return ((size_t)i * pixels + p) * channels + g * per + c; };
      auto in = [&](u32 p, u32 c) { return x[at(p, c)] + (shift.empty() ? 0.0 : shift[i * channels + g * per + c]); };
      double mean = 0, var = 0;
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) mean += in(p, c) / (pixels * per);
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) var += std::pow(in(p, c) - mean, 2) / (pixels * per);
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) {
          double z = (in(p, c) - mean) / std::sqrt(var + eps) * w[g * per + c] + b[g * per + c];
          y[at(p, c)] = silu ? silu_of(z) : z;
        }
    }
  return y;
}
// By the formula of `GroupNorm`, with the slope of SiLU by differences.
static Numbers norm_gradient(const Numbers &x, const Numbers &w, const Numbers &b, const Numbers &shift, const Numbers &dy, u32 images, u32 pixels, u32 channels, u32 groups, double eps, bool silu) {
  Numbers dx(x.size());
  Numbers one(channels, 1.0), none(channels, 0.0);
  Numbers normed = norm_reference(x, one, none, shift, images, pixels, channels, groups, eps, false);
  u32 per = channels / groups;
  for (u32 i = 0; i < images; i++)
    for (u32 g = 0; g < groups; g++) {
      auto at = [&](u32 p, u32 c) { return ((size_t)i * pixels + p) * channels + g * per + c; };
      double count = pixels * per, mean = 0, var = 0, sum = 0, product = 0;
      auto in = [&](u32 p, u32 c) { return x[at(p, c)] + (shift.empty() ? 0.0 : shift[i * channels + g * per + c]); };
      auto upper = [&](u32 p, u32 c) {
        u32 channel = g * per + c;
        double z = normed[at(p, c)] * w[channel] + b[channel];
        return dy[at(p, c)] * w[channel] * (silu ? derivative_of(SILU, z) : 1.0);
      };
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) mean += in(p, c) / count, sum += upper(p, c) / count, product += upper(p, c) * normed[at(p, c)] / count;
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) var += std::pow(in(p, c) - mean, 2) / count;
      for (u32 p = 0; p < pixels; p++)
        for (u32 c = 0; c < per; c++) dx[at(p, c)] = (upper(p, c) - sum - normed[at(p, c)] * product) / std::sqrt(var + eps);
    }
  return dx;
}

template <typename T, typename F, typename B> static void check_group_norm(F *kernel, B *backward, u32 pixels, u32 channels, u32 groups, bool shifted, int silu) {
  const u32 images = 2;
  const float eps = 1e-5f;
  Numbers x = rounded<T>(numbers(images * pixels * channels)), w = rounded<T>(numbers(channels)), b = rounded<T>(numbers(channels));
  Numbers shift = shifted ? rounded<float>(numbers(images * channels)) : Numbers();
  Numbers dy = rounded<T>(numbers(images * pixels * channels));
  vector<T> in = stored<T>(x), weight = stored<T>(w), bias = stored<T>(b), upper = stored<T>(dy), y(in.size()), dx(in.size());
  vector<float> shifts(shift.begin(), shift.end());
  const float *shift_at = shifted ? shifts.data() : nullptr;
  launch({images * groups}, 96, [&] { kernel(in.data(), weight.data(), bias.data(), shift_at, y.data(), pixels, channels, groups, eps, silu); });
  launch({images * groups}, 96, [&] { backward(in.data(), weight.data(), bias.data(), shift_at, upper.data(), dx.data(), pixels, channels, groups, eps, silu); });
  std::string what = std::string("group norm, ") + name<T>() + (shifted ? ", shifted" : "") + (silu ? ", silu" : "");
  Numbers expected = norm_gradient(x, w, b, shift, dy, images, pixels, channels, groups, eps, silu);
  report(what, error(read(y), norm_reference(x, w, b, shift, images, pixels, channels, groups, eps, silu)), bound<T>());
  report(what + ", gradient", error(read(dx), expected), bound<T>());
  if (sizeof(T) == 4)
    differentiate(what, {x}, dy, [&](const vector<Numbers> &at) { return norm_reference(at[0], w, b, shift, images, pixels, channels, groups, eps, silu); }, {expected});
}

template <typename T, typename F> static void check_layer_norm(F *kernel, u32 rows, u32 width) {
  const float eps = 1e-5f;
  Numbers x = rounded<T>(numbers(rows * width)), w = rounded<T>(numbers(width)), b = rounded<T>(numbers(width)), dy = rounded<T>(numbers(rows * width));
  vector<T> in = stored<T>(x), weight = stored<T>(w), bias = stored<T>(b), upper = stored<T>(dy), y(in.size()), dx(in.size());
  launch({(rows + 3) / 4}, 128, [&] { kernel(in.data(), weight.data(), bias.data(), nullptr, y.data(), rows, width, eps); });
  launch({(rows + 3) / 4}, 128, [&] { kernel(in.data(), weight.data(), bias.data(), upper.data(), dx.data(), rows, width, eps); });
  std::string what = std::string("layer norm, ") + name<T>() + ", " + std::to_string(width);
  report(what, error(read(y), norm_reference(x, w, b, {}, rows, 1, width, 1, eps, false)), bound<T>());
  report(what + ", gradient", error(read(dx), norm_gradient(x, w, b, {}, dy, rows, 1, width, 1, eps, false)), bound<T>());
}

template <typename T, typename F> static void check_activation(F *kernel) {
  for (int function : {SILU, GELU, QUICK_GELU}) {
    Numbers x = rounded<T>(numbers(555, 6)), dy = rounded<T>(numbers(555)), expected, gradient;
    for (size_t i = 0; i < x.size(); i++) expected.push_back(function_of(function, x[i])), gradient.push_back(dy[i] * derivative_of(function, x[i]));
    vector<T> in = stored<T>(x), upper = stored<T>(dy), y(555), dx(555);
    launch({3}, 64, [&] { kernel(in.data(), nullptr, y.data(), function, x.size()); });
    launch({3}, 64, [&] { kernel(in.data(), upper.data(), dx.data(), function, x.size()); });
    std::string what = std::string("activation ") + std::to_string(function) + ", " + name<T>();
    report(what, error(read(y), expected), bound<T>());
    report(what + ", gradient", error(read(dx), gradient), bound<T>());
  }
}

template <typename T, typename F> static void check_geglu(F *kernel, u32 width) {
  const u32 rows = 13;
  Numbers x = rounded<T>(numbers(rows * 2 * width, 4)), dy = rounded<T>(numbers(rows * width)), expected(rows * width), gradient(rows * 2 * width);
  for (u32 r = 0; r < rows; r++)
    for (u32 j = 0; j < width; j++) {
      double a = x[r * 2 * width + j], gate = x[r * 2 * width + width + j], d = dy[r * width + j];
      expected[r * width + j] = a * function_of(GELU, gate);
      gradient[r * 2 * width + j] = d * function_of(GELU, gate);
      gradient[r * 2 * width + width + j] = d * a * derivative_of(GELU, gate);
    }
  Aligned<T> in(x), upper(dy), y(Numbers(rows * width)), dx(Numbers(rows * 2 * width));
  u32 n = 16 / sizeof(T), packed = width % n == 0, per = packed ? n : 1;
  launch({2}, 64, [&] { kernel(in.data(), nullptr, y.data(), width / per, packed, rows * width / per); });
  launch({2}, 64, [&] { kernel(in.data(), upper.data(), dx.data(), width / per, packed, rows * width / per); });
  std::string what = std::string("geglu, ") + name<T>() + ", " + std::to_string(width);
  report(what, error(y.numbers(), expected), bound<T>());
  report(what + ", gradient", error(dx.numbers(), gradient), bound<T>());
}

template <typename T, typename F> static void check_finish(F *kernel) {
  const u32 rows = 11, width = 24;
  for (int with : {1, 2, 3}) {
    Numbers y = rounded<T>(numbers(rows * width)), bias = rounded<T>(numbers(width)), other = rounded<T>(numbers(rows * width)), expected;
    for (u32 i = 0; i < rows * width; i++) expected.push_back(y[i] + (with & 1 ? bias[i % width] : 0) + (with & 2 ? other[i] : 0));
    vector<Pack<T>> storage(rows * width * sizeof(T) / 16), biases(width * sizeof(T) / 16), others(storage.size());
    auto put = [](vector<Pack<T>> &to, const Numbers &from) {
      vector<T> values = stored<T>(from);
      memcpy((void *)to.data(), values.data(), values.size() * sizeof(T));
    };
    put(storage, y), put(biases, bias), put(others, other);
    launch({2}, 64, [&] { kernel((T *)storage.data(), with & 1 ? (T *)biases.data() : nullptr, with & 2 ? (T *)others.data() : nullptr, width * sizeof(T) / 16, storage.size()); });
    vector<T> result((T *)storage.data(), (T *)storage.data() + rows * width);
    report(std::string("finish, ") + name<T>() + ", " + std::to_string(with), error(read(result), expected), bound<T>());
  }
}

// --- Attention --------------------------------------------------------------------------------------------------------------

struct Shape {
  u32 images, queries, keys, heads, head_dim;
  double scale;
  size_t q(u32 i, u32 row, u32 head, u32 d) const { return (((size_t)i * queries + row) * heads + head) * head_dim + d; }
  size_t k(u32 i, u32 row, u32 head, u32 d) const { return (((size_t)i * keys + row) * heads + head) * head_dim + d; }
};

// P of one image and head, (queries, keys).
static Numbers weights(const Shape &s, const vector<Numbers> &in, const Numbers &bias, u32 image, u32 head) {
  Numbers p(s.queries * s.keys);
  for (u32 r = 0; r < s.queries; r++) {
    double most = -INFINITY, sum = 0;
    for (u32 c = 0; c < s.keys; c++) {
      double dot = 0;
      for (u32 d = 0; d < s.head_dim; d++) dot += in[0][s.q(image, r, head, d)] * in[1][s.k(image, c, head, d)];
      p[r * s.keys + c] = dot * s.scale + (bias.empty() ? 0 : std::max(bias[r * s.keys + c], -3.402823466e38));
      most = std::max(most, p[r * s.keys + c]);
    }
    // As in f32: beside the least number, a logit of ordinary size is nothing.
    for (u32 c = 0; c < s.keys; c++) sum += p[r * s.keys + c] = std::exp((double)((float)p[r * s.keys + c] - (float)most) * (most < -1e30) + (p[r * s.keys + c] - most) * (most >= -1e30));
    for (u32 c = 0; c < s.keys; c++) p[r * s.keys + c] /= sum;
  }
  return p;
}
static Numbers attention_reference(const Shape &s, const vector<Numbers> &in, const Numbers &bias) {
  Numbers out(in[0].size());
  for (u32 i = 0; i < s.images; i++)
    for (u32 h = 0; h < s.heads; h++) {
      Numbers p = weights(s, in, bias, i, h);
      for (u32 r = 0; r < s.queries; r++)
        for (u32 c = 0; c < s.keys; c++)
          for (u32 d = 0; d < s.head_dim; d++) out[s.q(i, r, h, d)] += p[r * s.keys + c] * in[2][s.k(i, c, h, d)];
    }
  return out;
}
static vector<Numbers> attention_gradients(const Shape &s, const vector<Numbers> &in, const Numbers &bias, const Numbers &d_out) {
  vector<Numbers> g = {Numbers(in[0].size()), Numbers(in[1].size()), Numbers(in[2].size())};
  for (u32 i = 0; i < s.images; i++)
    for (u32 h = 0; h < s.heads; h++) {
      Numbers p = weights(s, in, bias, i, h);
      for (u32 r = 0; r < s.queries; r++) {
        Numbers d_p(s.keys);
        double dot = 0;
        for (u32 c = 0; c < s.keys; c++) {
          for (u32 d = 0; d < s.head_dim; d++) d_p[c] += d_out[s.q(i, r, h, d)] * in[2][s.k(i, c, h, d)];
          dot += p[r * s.keys + c] * d_p[c];
        }
        for (u32 c = 0; c < s.keys; c++) {
          double d_s = p[r * s.keys + c] * (d_p[c] - dot) * s.scale;
          for (u32 d = 0; d < s.head_dim; d++) {
            g[0][s.q(i, r, h, d)] += d_s * in[1][s.k(i, c, h, d)];
            g[1][s.k(i, c, h, d)] += d_s * in[0][s.q(i, r, h, d)];
            g[2][s.k(i, c, h, d)] += p[r * s.keys + c] * d_out[s.q(i, r, h, d)];
          }
        }
      }
    }
  return g;
}

template <typename T, typename F, typename Q, typename K, typename D>
static void check_attention(F *forward, Q *of_queries, K *of_keys, D *of_dots, Shape s, int masked) {
  vector<Numbers> in = {rounded<T>(numbers((size_t)s.images * s.queries * s.heads * s.head_dim)), rounded<T>(numbers((size_t)s.images * s.keys * s.heads * s.head_dim)),
                        rounded<T>(numbers((size_t)s.images * s.keys * s.heads * s.head_dim))};
  Numbers d_out = rounded<T>(numbers(in[0].size())), bias;
  if (masked)
    for (u32 r = 0; r < s.queries; r++)
      for (u32 c = 0; c < s.keys; c++) bias.push_back(masked == 2 || c > r ? -INFINITY : 0.0);
  vector<float> bias_values(bias.begin(), bias.end());
  const float *bias_at = masked ? bias_values.data() : nullptr;
  Aligned<T> q(in[0]), k(in[1]), v(in[2]), upper(d_out), out(Numbers(in[0].size())), dq(Numbers(in[0].size())), dk(Numbers(in[1].size())), dv(Numbers(in[1].size()));
  vector<float2> softmax(s.images * s.heads * s.queries);
  vector<float> dots(softmax.size());
  auto blocks = [&](u32 rows) { return dim3{(rows + 63) / 64, s.heads, s.images}; };
  launch(blocks(s.queries), 128, [&] { forward(q.data(), k.data(), v.data(), bias_at, out.data(), softmax.data(), s.queries, s.keys, s.heads, s.head_dim, (float)s.scale); });
  launch({(u32)(dots.size() + 3) / 4}, 128, [&] { of_dots(out.data(), upper.data(), dots.data(), s.queries, s.heads, s.head_dim, (u32)dots.size()); });
  launch(blocks(s.queries), 128, [&] {
    of_queries(q.data(), k.data(), v.data(), bias_at, upper.data(), softmax.data(), dots.data(), dq.data(), s.queries, s.keys, s.heads, s.head_dim, (float)s.scale);
  });
  launch(blocks(s.keys), 128, [&] {
    of_keys(q.data(), k.data(), v.data(), bias_at, upper.data(), softmax.data(), dots.data(), dk.data(), dv.data(), s.queries, s.keys, s.heads, s.head_dim, (float)s.scale);
  });
  char text[120];
  snprintf(text, sizeof text, "attention, %s, %u×%u, %u heads of %u%s", name<T>(), s.queries, s.keys, s.heads, s.head_dim, masked == 2 ? ", all masked" : masked ? ", causal" : "");
  vector<Numbers> expected = attention_gradients(s, in, bias, d_out);
  report(text, error(out.numbers(), attention_reference(s, in, bias)), bound<T>());
  report(std::string(text) + ", dQ", error(dq.numbers(), expected[0]), bound<T>());
  report(std::string(text) + ", dK", error(dk.numbers(), expected[1]), bound<T>());
  report(std::string(text) + ", dV", error(dv.numbers(), expected[2]), bound<T>());
  if (masked < 2 && s.images * s.queries * s.keys < 1000)
    differentiate(text, in, d_out, [&](const vector<Numbers> &at) { return attention_reference(s, at, bias); }, expected);
}

#define CHECK_ATTENTION(T, NAME, D, ...) \
  check_attention<T>(attention_##D##_##NAME, attention_queries_##D##_##NAME, attention_keys_##D##_##NAME, attention_dots_##NAME, __VA_ARGS__)

template <typename T> struct Kernels;
#define OF(T, NAME)                                                                         \
  check_unfold<T>(unfold_##NAME, 8, 1, 1, 1, 5, 6, false);                                  \
  check_unfold<T>(unfold_##NAME, 3, 1, 1, 1, 5, 6, false);                                  \
  check_unfold<T>(unfold_##NAME, 16, 2, 1, 1, 6, 7, false);                                 \
  check_unfold<T>(unfold_##NAME, 8, 2, 0, 0, 6, 6, false);                                  \
  check_unfold<T>(unfold_##NAME, 8, 1, 1, 1, 5, 6, true);                                   \
  check_unfold<T>(unfold_##NAME, 5, 2, 1, 1, 6, 7, true);                                   \
  check_unfold<T>(unfold_##NAME, 8, 2, 0, 0, 7, 6, true);                                   \
  check_finish<T>(finish_##NAME);                                                           \
  check_group_norm<T>(group_norm_##NAME, group_norm_backward_##NAME, 20, 12, 4, false, 0);  \
  check_group_norm<T>(group_norm_##NAME, group_norm_backward_##NAME, 35, 40, 4, false, 1);  \
  check_group_norm<T>(group_norm_##NAME, group_norm_backward_##NAME, 9, 16, 16, true, 1);   \
  check_layer_norm<T>(layer_norm_##NAME, 7, 40);                                            \
  check_layer_norm<T>(layer_norm_##NAME, 2, 321);                                           \
  check_activation<T>(activation_##NAME);                                                   \
  check_geglu<T>(geglu_##NAME, 19);                                                         \
  check_geglu<T>(geglu_##NAME, 24);

int main() {
  OF(float, f32)
  OF(__nv_bfloat16, bf16)
  OF(__half, f16)
  CHECK_ATTENTION(__nv_bfloat16, bf16, 16, {2, 9, 9, 2, 16, 0.25}, 0);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 16, {2, 19, 19, 2, 8, 0.35}, 1);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 16, {1, 5, 7, 1, 8, 0.5}, 2);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 32, {1, 70, 40, 1, 24, 0.2}, 0);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 48, {1, 131, 77, 2, 40, 0.158}, 0);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 64, {1, 77, 77, 1, 64, 0.125}, 1);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 80, {1, 66, 77, 1, 80, 0.112}, 0);
  CHECK_ATTENTION(__nv_bfloat16, bf16, 160, {1, 65, 130, 1, 160, 0.079}, 0);
  CHECK_ATTENTION(__half, f16, 16, {2, 9, 9, 2, 16, 0.25}, 0);
  CHECK_ATTENTION(__half, f16, 48, {1, 40, 77, 2, 40, 0.158}, 0);
  CHECK_ATTENTION(__half, f16, 64, {1, 40, 40, 1, 64, 0.125}, 1);
  CHECK_ATTENTION(__half, f16, 80, {1, 20, 77, 1, 80, 0.112}, 0);
  CHECK_ATTENTION(__half, f16, 160, {1, 20, 40, 1, 160, 0.079}, 0);
  puts(all_hold ? "all hold" : "SOME FAIL");
  return all_hold ? 0 : 1;
}
