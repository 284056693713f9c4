#include "device/cuda/algorithms.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <chrono>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/text.h"
#include "device/cuda/quantized_rows.h"
#include "kernels/check.h"
#include "kernels/trial.h"

namespace layerprobe::device::cuda {
namespace {

namespace fs = std::filesystem;
using kernels::Matrix;

// At this many tokens candidates are timed: half of what a batch has, and a few milliseconds for a layer's shapes.
// Fewer do where products take sixteen times as long, in f32 and f64.
constexpr std::int64_t kTrialTokens = 4096;
constexpr std::int64_t kLeastTrialTokens = 1024;
constexpr std::int64_t kTrialBytes = std::int64_t{256} << 20;  // of input or result, at most: fewer tokens otherwise
constexpr std::size_t kTimed = 5;                              // candidates, in cuBLASLt's own order
constexpr int kRepeats = 3;
constexpr float kHopeless = 1.3f;
constexpr float kNoticeably = 0.98f;  // of the time of an earlier candidate: less is noise between two runs

// Batches whose rows must have the bits that they have among all tokens: one tile and less, some, and one more.
constexpr std::array<std::int64_t, 5> kTrialBatches = {1, 7, 64, 250, 1000};

/// "bfloat16[28672,4096]+bias", "bfloat16[6144,3072]*fp8"
std::string name_of_shape(const Ops::MatMulShape& shape) {
  return text(name_of(shape.dtype), "[", shape.out_features, ",", shape.in_features, "]",
              shape.has_bias && Product::adds_bias(shape.dtype) ? "+bias" : "", shape.multiplies_fp8 ? "*fp8" : "");
}

std::string text_of_choice(const std::string& name, const Algorithm& algorithm) {
  std::string out = name + "=";
  for (const std::uint64_t word : algorithm.data) {
    for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 15];
  }
  return out;
}

std::optional<std::pair<std::string, Algorithm>> read_choice(std::string_view choice) {
  const std::size_t equals = choice.find('=');
  Algorithm algorithm{};
  constexpr std::size_t kDigits = 16;
  if (equals == choice.npos || choice.size() - equals - 1 != kDigits * std::size(algorithm.data)) return std::nullopt;
  const char* digits = choice.data() + equals + 1;
  for (std::uint64_t& word : algorithm.data) {
    const auto [end, error] = std::from_chars(digits, digits + kDigits, word, 16);
    if (error != std::errc() || end != digits + kDigits) return std::nullopt;
    digits = end;
  }
  return std::pair{std::string(choice.substr(0, equals)), algorithm};
}

/// Memory and values to try products of one shape on.
class Trial {
 public:
  Trial(Context& context, const Ops::MatMulShape& shape, Product& product)
      : context_(context),
        product_(product),
        in_(padded_features(shape.in_features)),
        out_(padded_features(shape.out_features)),
        dtype_(shape.dtype),
        element_(static_cast<std::int64_t>(size_of(shape.dtype))),
        num_tokens_(size_of(shape.dtype) == 2 ? kTrialTokens : kLeastTrialTokens) {
    while (num_tokens_ > kLeastTrialTokens && num_tokens_ * std::max(in_, out_) * element_ > kTrialBytes) {
      num_tokens_ /= 2;
    }
    weight_ = random_matrix(out_, in_, shape.dtype, 1);
    x_ = random_matrix(num_tokens_, in_, shape.dtype, 2);
    all_ = random_matrix(num_tokens_, out_, shape.dtype, 3);
    some_ = random_matrix(kTrialBatches.back(), out_, shape.dtype, 3);
    if (shape.has_bias && Product::adds_bias(shape.dtype)) bias_ = random_matrix(1, out_, shape.dtype, 4);
    if (shape.multiplies_fp8) {  // any bytes are FP8, and a few of them NaN, whose bits are compared too
      const std::int64_t factors = (out_ / 128 + 1) * (in_ / 128 + 4);
      factors_ = random_matrix(1, factors * static_cast<std::int64_t>(sizeof(float)) / element_, shape.dtype, 5);
      kernels::random_values(factors_.data(), factors, Dtype::f32, 5, context.stream());
      scratch_ = context.allocate(product.scratch_bytes(num_tokens_));
      all_quantized_.emplace(quantized(0, num_tokens_));
    }
    workspace_ = context.allocate(Product::kWorkspaceBytes);
    differs_ = context.allocate(sizeof(int));
    kernels::check(cudaEventCreate(begin_.out()), "time products");
    kernels::check(cudaEventCreate(end_.out()), "time products");
  }

  std::int64_t num_tokens() const { return num_tokens_; }

  /// Of one product. One that is far slower than `best` the first time is not tried again.
  float milliseconds(const Algorithm& algorithm, float best) {
    multiply(algorithm, 0, kTrialBatches.back(), some_);  // the first use loads the kernel
    const float first = milliseconds_of(algorithm, 1);
    return first > kHopeless * best ? first : milliseconds_of(algorithm, kRepeats);
  }

  /// Whether rows of smaller batches have the bits that they have among all tokens.
  bool rows_agree(const Algorithm& algorithm) {
    kernels::check(cudaMemsetAsync(differs_.data(), 0, sizeof(int), context_.stream()), "compare products");
    multiply(algorithm, 0, num_tokens_, all_);
    for (const std::int64_t count : kTrialBatches) {
      if (!product_.allows(algorithm, count)) return false;
      const std::int64_t first = num_tokens_ - count - 3;  // another place in a tile than in the whole
      multiply(algorithm, first, count, some_);
      kernels::find_difference(static_cast<const std::byte*>(all_.data()) + first * out_ * element_, some_.data(),
                               static_cast<std::size_t>(count * out_ * element_), static_cast<int*>(differs_.data()),
                               context_.stream());
    }
    int differs = 0;
    kernels::check(
        cudaMemcpyAsync(&differs, differs_.data(), sizeof differs, cudaMemcpyDeviceToHost, context_.stream()),
        "compare products");
    context_.synchronize();
    return differs == 0;
  }

 private:
  Buffer random_matrix(std::int64_t rows, std::int64_t columns, Dtype dtype, std::uint32_t seed) {
    Buffer buffer = context_.allocate(static_cast<std::size_t>(rows * columns * element_));
    kernels::random_values(buffer.data(), rows * columns, dtype, seed, context_.stream());
    return buffer;
  }

  float milliseconds_of(const Algorithm& algorithm, int count) {
    kernels::check(cudaEventRecord(begin_.get(), context_.stream()), "time products");
    for (int i = 0; i < count; ++i) multiply(algorithm, 0, num_tokens_, all_);
    kernels::check(cudaEventRecord(end_.get(), context_.stream()), "time products");
    kernels::check(cudaEventSynchronize(end_.get()), "time products");
    float elapsed = 0;
    kernels::check(cudaEventElapsedTime(&elapsed, begin_.get(), end_.get()), "time products");
    return elapsed / static_cast<float>(count);
  }

  void multiply(const Algorithm& algorithm, std::int64_t first, std::int64_t count, const Buffer& out) {
    Product::Arguments args{
        .out = {out.data(), out_}, .x = x(first), .weight = weight_.data(), .bias = bias_.data(), .num_tokens = count};
    std::optional<QuantizedRows> some_quantized;
    if (all_quantized_) {
      if (count != num_tokens_) some_quantized.emplace(quantized(first, count));
      const QuantizedRows& rows = some_quantized ? *some_quantized : *all_quantized_;
      args.x = {rows.values(0), 0};
      args.x_factors = rows.factors(0);
      args.weight_factors = static_cast<const float*>(factors_.data());
      args.scratch = scratch_.data();
    }
    product_.run(args, algorithm, workspace_.data(), context_.stream());
  }

  kernels::Matrix x(std::int64_t first) const {
    return {static_cast<std::byte*>(x_.data()) + first * in_ * element_, in_};
  }

  QuantizedRows quantized(std::int64_t first, std::int64_t count) const {
    const std::array<std::int64_t, 2> rows = {0, count};
    return {context_, {.x = x(first), .columns = in_, .dtype = dtype_}, rows};
  }

  Context& context_;
  Product& product_;
  std::int64_t in_, out_;
  Dtype dtype_;
  std::int64_t element_, num_tokens_;
  Buffer weight_, x_, all_, some_, bias_, factors_, scratch_, workspace_, differs_;
  std::optional<QuantizedRows> all_quantized_;  // x, where FP8 is multiplied
  Event begin_, end_;
};

}  // namespace

Algorithms::Algorithms(Context& context, const CublasLt& library, fs::path cache_folder)
    : context_(context), library_(library), cache_folder_(std::move(cache_folder)) {
  read_remembered();
}

void Algorithms::read_remembered() {
  std::error_code ignored;
  if (cache_folder_.empty() || !fs::is_regular_file(cache_file(), ignored)) return;
  try {
    for (const std::string& line : split(read_text_file(cache_file(), 1'000'000), '\n')) {
      if (const auto choice = read_choice(line)) chosen_.insert(*choice);
    }
  } catch (const Error&) {  // chosen again, then
  }
}

/// Runs that begin together, as the tasks of an array job do, have to choose alike for their files to be one run's: the
/// first chooses, the others wait and read. Best effort: nothing where there is no lock to be had.
std::optional<File> Algorithms::lock() const {
  if (cache_folder_.empty()) return std::nullopt;
  constexpr auto kPatience = std::chrono::minutes(2);  // choosing for a model takes seconds
  const auto start = std::chrono::steady_clock::now();
  std::error_code ignored;
  fs::create_directories(cache_folder_, ignored);
  try {
    File file = File::open_or_create(cache_file().string() + ".lock");
    while (!file.try_lock()) {
      if (std::chrono::steady_clock::now() - start > kPatience) return std::nullopt;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return file;
  } catch (const Error&) {
    return std::nullopt;
  }
}

const Algorithm& Algorithms::of(const Ops::MatMulShape& shape, Product& product) {
  const std::string name = name_of_shape(shape);
  const auto known = [&]() -> const Algorithm* {
    const auto found = chosen_.find(name);
    return found != chosen_.end() && product.allows(found->second, 1) ? &found->second : nullptr;
  };
  if (const Algorithm* algorithm = known()) return *algorithm;
  const std::optional<File> locked = lock();
  read_remembered();
  if (const Algorithm* algorithm = known()) return *algorithm;
  const Algorithm& algorithm = chosen_[name] = choose(shape, product);
  remember();
  return algorithm;
}

Algorithm Algorithms::choose(const Ops::MatMulShape& shape, Product& product) {
  Trial trial(context_, shape, product);
  const std::vector<Algorithm> candidates = product.candidates(trial.num_tokens());
  std::vector<std::pair<float, std::size_t>> timed;  // milliseconds, and which; the untimed last, in their order
  constexpr float kUntimed = 1e30f;
  float best_time = kUntimed;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    timed.emplace_back(i < kTimed ? trial.milliseconds(candidates[i], best_time) : kUntimed, i);
    best_time = std::min(best_time, timed.back().first);
  }
  while (!timed.empty()) {
    auto best = timed.begin();
    for (auto other = timed.begin(); other != timed.end(); ++other) {
      if (other->first < kNoticeably * best->first) best = other;
    }
    if (trial.rows_agree(candidates[best->second])) return candidates[best->second];
    timed.erase(best);
  }
  throw Error({.kind = ErrorKind::device,
               .where = text("matmul ", name_of_shape(shape)),
               .what = text("none of the ", candidates.size(), " algorithms of cuBLASLt ", library_.version(),
                            " gives a token the same bits in every batch"),
               .fix = "use another version of the library, or another --dtype"});
}

std::string Algorithms::text_of(const Ops::MatMulShape& shape) const {
  const std::string name = name_of_shape(shape);
  return text_of_choice(name, chosen_.at(name));
}

void Algorithms::use(std::string_view text) {
  for (const std::string& part : split(text, ' ')) {
    if (part.empty()) continue;
    const auto choice = read_choice(part);
    if (!choice) {
      throw Error({.kind = ErrorKind::input,
                   .where = "chosen product algorithms",
                   .what = layerprobe::text("\"", part, "\" is no shape and algorithm"),
                   .fix = "start the run anew with --overwrite"});
    }
    chosen_.insert_or_assign(choice->first, choice->second);
  }
}

fs::path Algorithms::cache_file() const {
  std::string model = context_.model();
  for (char& c : model) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
  }
  return cache_folder_ / text("products-", model, "-cublaslt-", library_.version(), ".txt");
}

/// Best effort: what cannot be remembered is chosen again next time.
void Algorithms::remember() const {
  if (cache_folder_.empty()) return;
  std::string all;
  for (const auto& [name, algorithm] : chosen_) all += text_of_choice(name, algorithm) + "\n";
  std::error_code ignored;
  fs::create_directories(cache_folder_, ignored);
  const fs::path partial = cache_file().string() + text(".", getpid());
  try {
    fs::remove(partial, ignored);
    File::create(partial).write_at(0, std::as_bytes(std::span(all)));
    rename_durably(partial, cache_file());
  } catch (const Error&) {
    fs::remove(partial, ignored);
  }
}

}  // namespace layerprobe::device::cuda
