// The one file that knows oneDNN and the differences between its versions 2.6 and 3.x.
#include "device/cpu/onednn.h"

#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kMaxChunkColumns = 256;  // with 576 to 1536 in_features a chunk stays in 1 MiB of cache
constexpr std::int64_t kColumnStep = 32;        // chunks other than the last are whole vectors wide
constexpr auto kBf16 = dnnl::memory::data_type::bf16;

dnnl::matmul::primitive_desc describe_product(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                              const dnnl::memory::desc& weight, const dnnl::memory::desc& out,
                                              const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, weight, out, attributes};
#else
  return {dnnl::matmul::desc(x, weight, out), attributes, engine};
#endif
}

bool has(dnnl::cpu_isa instructions) {  // a set's bits contain those of the sets below it
  const int wanted = static_cast<int>(instructions);
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

/// Runs `work`, a step the user knows as `doing`, and turns oneDNN's exceptions into ours.
template <typename Work>
auto checked(const std::string& doing, Work&& work) {
  try {
    return work();
  } catch (const dnnl::error& error) {
    const bool full = error.status == dnnl_out_of_memory;
    throw Error({.kind = full ? ErrorKind::resource : ErrorKind::device,
                 .where = "cpu: " + doing,
                 .what = text("oneDNN: ", error.what()),
                 .fix = full ? "free memory, or run fewer layers at once with --layers"
                             : "run with ONEDNN_VERBOSE=1 (DNNL_VERBOSE=1) and report what it prints"});
  }
}

/// Primitives made while this lives expect one thread: they run inside our own parallel loops.
class OneThread {
 public:
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_ = omp_get_max_threads();
};

/// The product of a tile with a chunk of one size.
struct ChunkProduct {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
  dnnl::memory::desc plain_weight;
  dnnl::reorder pack;
  bool rows_agree = false;
};

ChunkProduct make_product(const dnnl::engine& engine, std::int64_t in_features, std::int64_t columns) {
  using Desc = dnnl::memory::desc;
  using Dims = dnnl::memory::dims;
  const OneThread one_thread;
  const Desc x(Dims{TiledProduct::kRows, in_features}, kBf16, Dims{in_features, 1});
  const Desc weight(Dims{in_features, columns}, kBf16, dnnl::memory::format_tag::any);
  const Desc out(Dims{TiledProduct::kRows, columns}, dnnl::memory::data_type::f32, Dims{columns, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own would be one for all threads
  ChunkProduct product;
  product.description = describe_product(engine, x, weight, out, attributes);
  product.primitive = dnnl::matmul(product.description);
  product.plain_weight = Desc(Dims{in_features, columns}, kBf16, Dims{1, in_features});
  product.pack = dnnl::reorder(
      dnnl::reorder::primitive_desc(engine, product.plain_weight, engine, product.description.weights_desc()));
  return product;
}

void pack(const ChunkProduct& product, const dnnl::engine& engine, const void* rows, dnnl::memory& packed) {
  dnnl::memory plain(product.plain_weight, engine, const_cast<void*>(rows));  // only read
  dnnl::stream stream(engine);
  product.pack.execute(stream, plain, packed);
  stream.wait();
}

void multiply(const ChunkProduct& product, const dnnl::engine& engine, const dnnl::memory& weight, const void* x,
              float* out, void* scratch) {
  dnnl::stream stream(engine);
  product.primitive.execute(
      stream, {{DNNL_ARG_SRC, dnnl::memory(product.description.src_desc(), engine, const_cast<void*>(x))},
               {DNNL_ARG_WEIGHTS, weight},
               {DNNL_ARG_DST, dnnl::memory(product.description.dst_desc(), engine, out)},
               {DNNL_ARG_SCRATCHPAD, dnnl::memory(product.description.scratchpad_desc(), engine, scratch)}});
  stream.wait();
}

/// Numbers from 0.5 to 2 with either sign, as bf16: their sums round differently in every order.
std::vector<std::uint16_t> any_numbers(std::int64_t count) {
  std::vector<std::uint16_t> numbers(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (std::uint16_t& number : numbers) {
    state = state * 1664525u + 1013904223u;
    number = static_cast<std::uint16_t>(0x3f00u + (state >> 24) + (state >> 8 & 0x8000u));
  }
  return numbers;
}

bool equal_rows_agree(const ChunkProduct& product, const dnnl::engine& engine, std::int64_t in_features,
                      std::int64_t columns) {
  constexpr std::int64_t kRows = TiledProduct::kRows;
  const std::vector<std::uint16_t> weight = any_numbers(columns * in_features), row = any_numbers(in_features);
  std::vector<std::uint16_t> x;
  for (std::int64_t i = 0; i < kRows; ++i) x.insert(x.end(), row.begin(), row.end());
  std::vector<float> out(static_cast<std::size_t>(kRows * columns));
  dnnl::memory packed(product.description.weights_desc(), engine);
  const dnnl::memory scratch(product.description.scratchpad_desc(), engine);
  pack(product, engine, weight.data(), packed);
  multiply(product, engine, packed, x.data(), out.data(), scratch.get_data_handle());
  return std::equal(out.begin() + columns, out.end(), out.begin());  // each row with the one before it
}

}  // namespace

struct OneDnn::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::map<std::pair<std::int64_t, std::int64_t>, ChunkProduct> products = {};  // by in_features and columns

  const ChunkProduct& product(std::int64_t in_features, std::int64_t columns) {
    ChunkProduct& product = products[{in_features, columns}];
    if (!product.primitive) {
      product = make_product(engine, in_features, columns);
      product.rows_agree = equal_rows_agree(product, engine, in_features, columns);
    }
    return product;
  }
};

OneDnn::OneDnn() : state_(checked("start", [] { return std::make_unique<State>(); })) {}
OneDnn::~OneDnn() = default;

std::string onednn_name() {
  const dnnl_version_t* version = dnnl_version();
  const char* instructions = has(dnnl::cpu_isa::avx512_core_amx)    ? "avx512_core_amx"
                             : has(dnnl::cpu_isa::avx512_core_bf16) ? "avx512_core_bf16"
                             : has(dnnl::cpu_isa::avx512_core)      ? "avx512_core"
                             : has(dnnl::cpu_isa::avx2)             ? "avx2"
                                                                    : "generic";
  return text("oneDNN ", version->major, ".", version->minor, ".", version->patch, " (", instructions, ")");
}

bool onednn_has_bf16() { return has(dnnl::cpu_isa::avx512_core_bf16); }

struct TiledProduct::Chunks {
  dnnl::engine engine;  // oneDNN's handles are shared: nothing here dies with OneDnn
  ChunkProduct whole, last;
  std::vector<dnnl::memory> weights = {};

  const ChunkProduct& product_of(std::int64_t chunk) const {
    return chunk + 1 == static_cast<std::int64_t>(weights.size()) ? last : whole;
  }
};

TiledProduct::TiledProduct(OneDnn& library, std::int64_t in_features, std::int64_t out_features)
    : out_features_(out_features) {
  expect(in_features > 0 && out_features > 0, "a product has columns");
  const std::int64_t even_chunks = (out_features + kMaxChunkColumns - 1) / kMaxChunkColumns;
  const std::int64_t even = (out_features + even_chunks - 1) / even_chunks;
  chunk_columns_ = std::min(out_features, (even + kColumnStep - 1) / kColumnStep * kColumnStep);
  const std::int64_t chunks = (out_features + chunk_columns_ - 1) / chunk_columns_;
  checked(text("prepare a product with a weight of [", out_features, ", ", in_features, "]"), [&] {
    OneDnn::State& state = *library.state_;
    chunks_ = std::make_unique<Chunks>(Chunks{.engine = state.engine,
                                              .whole = state.product(in_features, num_columns(0)),
                                              .last = state.product(in_features, num_columns(chunks - 1))});
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const ChunkProduct& product = chunk + 1 == chunks ? chunks_->last : chunks_->whole;
      chunks_->weights.emplace_back(product.description.weights_desc(), state.engine);
    }
  });
}

TiledProduct::~TiledProduct() = default;
TiledProduct::TiledProduct(TiledProduct&&) noexcept = default;

bool TiledProduct::rows_agree() const { return chunks_->whole.rows_agree && chunks_->last.rows_agree; }

std::int64_t TiledProduct::num_chunks() const { return static_cast<std::int64_t>(chunks_->weights.size()); }

std::int64_t TiledProduct::first_column(std::int64_t chunk) const { return chunk * chunk_columns_; }

std::int64_t TiledProduct::num_columns(std::int64_t chunk) const {
  return std::min(chunk_columns_, out_features_ - first_column(chunk));
}

std::size_t TiledProduct::bytes() const {
  std::size_t bytes = 0;
  for (const dnnl::memory& weight : chunks_->weights) bytes += weight.get_desc().get_size();
  return bytes;
}

std::size_t TiledProduct::scratch_bytes() const {
  return std::max(chunks_->whole.description.scratchpad_desc().get_size(),
                  chunks_->last.description.scratchpad_desc().get_size());
}

void TiledProduct::pack(std::int64_t chunk, const void* rows) {
  checked("pack a weight", [&] {
    cpu::pack(chunks_->product_of(chunk), chunks_->engine, rows, chunks_->weights[static_cast<std::size_t>(chunk)]);
  });
}

void TiledProduct::multiply(std::int64_t chunk, const void* x, float* out, void* scratch) const {
  checked("matrix product", [&] {
    cpu::multiply(chunks_->product_of(chunk), chunks_->engine, chunks_->weights[static_cast<std::size_t>(chunk)], x,
                  out, scratch);
  });
}

}  // namespace layerprobe::device::cpu
