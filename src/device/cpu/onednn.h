#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace layerprobe::device::cpu {

/// "oneDNN 2.6.3 (avx512_core_bf16)": the library and the instructions that it uses on this processor.
std::string onednn_name();

/// Whether oneDNN multiplies bf16 with the processor's own bf16 instructions (AVX-512 BF16 or AMX).
bool onednn_has_bf16();

/// The library and the primitives that it has made for us, one for each size of product. One thread at a time.
class OneDnn {
 public:
  OneDnn();
  ~OneDnn();

 private:
  friend class TiledProduct;
  struct State;
  std::unique_ptr<State> state_;
};

/// A weight [out_features, in_features] of bf16, packed as oneDNN likes it, and its product with a tile of rows.
///
/// The weight is cut into chunks of out_features. A product is always kRows rows against one chunk on the calling
/// thread: one primitive of one size, with no sum cut among threads. So the bits of a row depend on no other row, not
/// on the number of rows in a batch and not on the number of threads, whatever algorithm the library picks for that
/// size. They could depend on the row's place in the tile (2.6.3's f32 product does that with AVX2: the last rows of 32
/// sum in another order); rows_agree() says whether they do. Measured against one call on all rows and threads: as
/// fast.
class TiledProduct {
 public:
  static constexpr std::int64_t kRows = 64;

  /// Throws Error(resource) when there is not enough memory.
  TiledProduct(OneDnn& library, std::int64_t in_features, std::int64_t out_features);
  ~TiledProduct();
  TiledProduct(TiledProduct&&) noexcept;

  /// Whether equal rows of a tile give equal bits; tried once for each size of product.
  bool rows_agree() const;

  std::int64_t num_chunks() const;
  /// The chunk's first out_feature, and how many it has; the first chunk is as wide as any.
  std::int64_t first_column(std::int64_t chunk) const;
  std::int64_t num_columns(std::int64_t chunk) const;
  std::size_t bytes() const;
  /// What a thread needs for one call of multiply, aligned to 64 bytes.
  std::size_t scratch_bytes() const;

  /// `rows` is [num_columns(chunk), in_features] of bf16, packed. Different chunks: any thread.
  void pack(std::int64_t chunk, const void* rows);
  /// out[kRows, num_columns(chunk)] = x[kRows, in_features] @ chunk^T, both packed, x of bf16. Any thread.
  void multiply(std::int64_t chunk, const void* x, float* out, void* scratch) const;

 private:
  struct Chunks;
  std::unique_ptr<Chunks> chunks_;
  std::int64_t out_features_, chunk_columns_;
};

}  // namespace layerprobe::device::cpu
