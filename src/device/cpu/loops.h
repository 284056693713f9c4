#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "base/statistics.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// A part of an operation's rows: [first, last).
struct Rows {
  std::int64_t first;
  std::int64_t last;
};

/// A plain matrix of f32 beside a tensor: what oneDNN reads and writes.
struct F32Matrix {
  float* data;
  std::int64_t row_stride;
};

/// Keys and values of one call of attention (or of some of its prompts), laid out for the tile product of
/// loops/tile_product.h: in f64, in f32, or two numbers of bf16 in the place of an f32 (loops/bf16_pairs.h).
///
/// A panel is Loops::panel_bytes wide. Keys of a prompt begin a new panel: [key panel][head_dim][keys of the panel].
/// Values: [value_head_dim panel][num_tokens][columns of the panel]. Both once for each key and value head. Strides and
/// offsets are in f32 or f64 elements.
struct PackedKeyValues {
  void* keys;
  void* values;
  std::int64_t key_head_stride;     // between heads
  std::int64_t value_head_stride;   // the same
  std::int64_t value_panel_stride;  // between panels of value_head_dim
};

/// One prompt in a call of attention.
struct Prompt {
  std::int64_t begin;         // its first token, a row of the call's tensors
  std::int64_t end;           // one past its last
  std::int64_t key_offset;    // of its first panel in PackedKeyValues::keys
  std::int64_t value_offset;  // of its first row in each panel of PackedKeyValues::values
};

/// The inner loops of every operation, compiled once for each instruction set. They run on the calling thread and trust
/// their arguments. Formulas and rounding: device/ops.h.
struct Loops {
  const char* name;          // of the instruction set
  std::int64_t panel_bytes;  // of the tile product: two vectors

  /// `out` gets rounded(in + bias); bias may be null.
  void (*round_rows)(const Tensor& out, F32Matrix in, const float* bias);
  /// `out` gets x in f32.
  void (*expand_rows)(F32Matrix out, const Tensor& x);

  void (*rms_norm)(const Ops::RmsNorm& args, Rows rows);
  void (*rope)(const Ops::Rope& args, Rows rows);
  void (*silu_mul)(const Ops::SiluMul& args, Rows rows);
  void (*add)(const Ops::Add& args, Rows rows);
  RowSums (*row_statistics)(const Tensor& x, std::int64_t row);
  /// out[0, :] = the mean of the rows of x.
  void (*mean_rows)(const Tensor& out, const Tensor& x);

  /// Packs the keys and values of one head of the prompt's tokens [first, last), counted from the prompt's begin; first
  /// is a multiple of a panel's keys.
  void (*pack_key_values)(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
                          std::int64_t key_value_head, Rows tokens);
  /// Bytes of scratch that attention needs, and the query tokens that one call of it may take.
  std::int64_t (*attention_scratch_bytes)(const Ops::Attention& args);
  std::int64_t attention_query_tokens;
  /// One head of the prompt's tokens [first, last), counted from the prompt's begin; first is a multiple of
  /// attention_query_tokens, and last - first at most that.
  void (*attention)(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
                    Rows tokens, void* scratch);

  /// Our own matrix product, in f64 for f64 and in f32 for the others. `packed` is [panel of out_features][in_features]
  /// [columns of the panel] in f64 or f32. Packs weight, [rows, in_features], as the out_features from first_column on.
  void (*pack_weight)(void* packed, const Tensor& weight, std::int64_t first_column);
  /// Rows that one call of matmul may take, and bytes of scratch that it needs.
  std::int64_t matmul_rows;
  std::int64_t (*matmul_scratch_bytes)(const Tensor& x);
  /// Some panels of the columns of `out`; bias, [out_features] in f64 or f32, may be null.
  void (*matmul)(const Tensor& out, const Tensor& x, const void* packed, const void* bias, Rows panels, void* scratch);
};

extern const Loops kBaselineLoops;
extern const Loops kAvx2Loops;        // x86-64-v3: AVX2 and FMA
extern const Loops kAvx512Loops;      // x86-64-v4
extern const Loops kAvx512Bf16Loops;  // and AVX512_BF16

/// Those that this processor can run, the fastest first; the last is kBaselineLoops.
std::vector<const Loops*> supported_loops();

}  // namespace layerprobe::device::cpu
