// The one file that knows oneDNN and the differences between its versions 2.6 and 3.x.
#include "device/cpu/onednn.h"

#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kMaxChunkColumns = 256;  // with 576 to 1536 in_features a bf16 chunk stays in 1 MiB of cache
constexpr std::int64_t kColumnStep = 32;        // chunks other than the last are whole vectors wide

#if DNNL_VERSION_MAJOR >= 3
dnnl::matmul::primitive_desc product(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                     const dnnl::memory::desc& weight, const dnnl::memory::desc& out,
                                     const dnnl::primitive_attr& attributes) {
  return {engine, x, weight, out, attributes};
}
#else
dnnl::matmul::primitive_desc product(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                     const dnnl::memory::desc& weight, const dnnl::memory::desc& out,
                                     const dnnl::primitive_attr& attributes) {
  return {dnnl::matmul::desc(x, weight, out), attributes, engine};
}
#endif

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

/// The product of a tile with a chunk of one width.
struct ChunkProduct {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
  dnnl::memory::desc plain_weight;
  dnnl::reorder pack;
};

ChunkProduct chunk_product(const dnnl::engine& engine, std::int64_t in_features, std::int64_t columns,
                           dnnl::memory::data_type type) {
  using Desc = dnnl::memory::desc;
  using Dims = dnnl::memory::dims;
  const Desc x(Dims{TiledProduct::kRows, in_features}, type, Dims{in_features, 1});
  const Desc weight(Dims{in_features, columns}, type, dnnl::memory::format_tag::any);
  const Desc out(Dims{TiledProduct::kRows, columns}, dnnl::memory::data_type::f32, Dims{columns, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own would be one for all threads
  ChunkProduct result;
  result.description = product(engine, x, weight, out, attributes);
  result.primitive = dnnl::matmul(result.description);
  result.plain_weight = Desc(Dims{in_features, columns}, type, Dims{1, in_features});
  result.pack = dnnl::reorder(
      dnnl::reorder::primitive_desc(engine, result.plain_weight, engine, result.description.weights_desc()));
  return result;
}

}  // namespace

struct TiledProduct::Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  ChunkProduct whole, last;
  std::vector<dnnl::memory> chunks;

  const ChunkProduct& product_of(std::int64_t chunk) const {
    return chunk + 1 == static_cast<std::int64_t>(chunks.size()) ? last : whole;
  }
};

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

TiledProduct::TiledProduct(std::int64_t in_features, std::int64_t out_features, Dtype dtype)
    : in_features_(in_features), out_features_(out_features) {
  expect(in_features > 0 && out_features > 0, "a product has columns");
  expect(dtype == Dtype::bf16 || dtype == Dtype::f32, "oneDNN multiplies bf16 or f32");
  const std::int64_t chunks = (out_features + kMaxChunkColumns - 1) / kMaxChunkColumns;
  const std::int64_t even = (out_features + chunks - 1) / chunks;
  chunk_columns_ = chunks == 1 ? out_features : (even + kColumnStep - 1) / kColumnStep * kColumnStep;
  checked(text("prepare a product with a weight of [", out_features, ", ", in_features, "]"), [&] {
    const OneThread one_thread;
    library_ = std::make_unique<Library>();
    const auto type = dtype == Dtype::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    library_->chunks.resize(static_cast<std::size_t>((out_features + chunk_columns_ - 1) / chunk_columns_));
    library_->whole = chunk_product(library_->engine, in_features, num_columns(0), type);
    library_->last = chunk_product(library_->engine, in_features, num_columns(num_chunks() - 1), type);
    for (dnnl::memory& chunk : library_->chunks) {
      const std::int64_t index = &chunk - library_->chunks.data();
      chunk = dnnl::memory(library_->product_of(index).description.weights_desc(), library_->engine);
    }
  });
}

TiledProduct::~TiledProduct() = default;

std::int64_t TiledProduct::num_chunks() const { return static_cast<std::int64_t>(library_->chunks.size()); }

std::int64_t TiledProduct::first_column(std::int64_t chunk) const { return chunk * chunk_columns_; }

std::int64_t TiledProduct::num_columns(std::int64_t chunk) const {
  return std::min(chunk_columns_, out_features_ - first_column(chunk));
}

std::size_t TiledProduct::bytes() const {
  std::size_t bytes = 0;
  for (const dnnl::memory& chunk : library_->chunks) bytes += chunk.get_desc().get_size();
  return bytes;
}

std::size_t TiledProduct::scratch_bytes() const {
  return std::max(library_->whole.description.scratchpad_desc().get_size(),
                  library_->last.description.scratchpad_desc().get_size());
}

void TiledProduct::pack(std::int64_t chunk, const void* rows) {
  checked("pack a weight", [&] {
    const ChunkProduct& product = library_->product_of(chunk);
    dnnl::memory& packed = library_->chunks[static_cast<std::size_t>(chunk)];
    dnnl::memory plain(product.plain_weight, library_->engine, const_cast<void*>(rows));  // only read
    dnnl::stream stream(library_->engine);
    product.pack.execute(stream, plain, packed);
    stream.wait();
  });
}

void TiledProduct::multiply(std::int64_t chunk, const void* x, float* out, void* scratch) const {
  checked("matrix product", [&] {
    const ChunkProduct& product = library_->product_of(chunk);
    const dnnl::engine& engine = library_->engine;
    dnnl::stream stream(engine);
    product.primitive.execute(
        stream, {{DNNL_ARG_SRC, dnnl::memory(product.description.src_desc(), engine, const_cast<void*>(x))},
                 {DNNL_ARG_WEIGHTS, library_->chunks[static_cast<std::size_t>(chunk)]},
                 {DNNL_ARG_DST, dnnl::memory(product.description.dst_desc(), engine, out)},
                 {DNNL_ARG_SCRATCHPAD, dnnl::memory(product.description.scratchpad_desc(), engine, scratch)}});
    stream.wait();
  });
}

}  // namespace layerprobe::device::cpu
