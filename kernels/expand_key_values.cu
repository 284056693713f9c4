// A thread copies 16 bytes of a head's key or value at a time where all parts of a head are whole 16 bytes, as in every
// real model; else an element. Bound by memory bandwidth: what it writes is read once, the rotated part from the cache.
#include "kernels/expand_key_values.h"

#include "kernels/check.h"
#include "kernels/dispatch.cuh"
#include "kernels/pack.cuh"

namespace layerprobe::kernels {
namespace {

/// Unit: what a thread copies. Columns are counted in it.
template <typename Unit>
struct Columns {
  std::int64_t plain, rotated, value;
  std::int64_t key_stride, value_stride, kv_stride, rot_stride;
};

template <typename Unit>
__global__ void expand_key_values_kernel(ExpandKeyValues args, Columns<Unit> columns) {
  const std::int64_t row = row_of_thread();
  if (row >= args.num_tokens) return;
  Unit* key = static_cast<Unit*>(args.key_states.data) + row * columns.key_stride;
  Unit* value = static_cast<Unit*>(args.value_states.data) + row * columns.value_stride;
  const Unit* kv = static_cast<const Unit*>(args.kv.data) + row * columns.kv_stride;
  const Unit* k_rot = static_cast<const Unit*>(args.k_rot.data) + row * columns.rot_stride;
  const auto key_columns = static_cast<unsigned>(columns.plain + columns.rotated);
  const auto plain = static_cast<unsigned>(columns.plain), values = static_cast<unsigned>(columns.value);
  const unsigned of_head = key_columns + values, all = of_head * static_cast<unsigned>(args.num_heads);
  for (unsigned i = threadIdx.x; i < all; i += blockDim.x) {
    const unsigned head = i / of_head, column = i % of_head;
    if (column < plain) {
      key[head * key_columns + column] = kv[head * (plain + values) + column];
    } else if (column < key_columns) {
      key[head * key_columns + column] = k_rot[column - plain];
    } else {
      value[head * values + column - key_columns] = kv[head * (plain + values) + column - key_columns + plain];
    }
  }
}

template <typename Unit>
void launch(const ExpandKeyValues& args, cudaStream_t stream) {
  const auto in_units = [&](std::int64_t elements) {
    return elements * static_cast<std::int64_t>(size_of(args.dtype)) / static_cast<std::int64_t>(sizeof(Unit));
  };
  const Columns<Unit> columns{.plain = in_units(args.plain_columns),
                              .rotated = in_units(args.rotated_columns),
                              .value = in_units(args.value_columns),
                              .key_stride = in_units(args.key_states.row_stride),
                              .value_stride = in_units(args.value_states.row_stride),
                              .kv_stride = in_units(args.kv.row_stride),
                              .rot_stride = in_units(args.k_rot.row_stride)};
  const RowLaunch launch(args.num_tokens, args.num_heads * (columns.plain + columns.rotated + columns.value));
  expand_key_values_kernel<Unit><<<launch.blocks, launch.threads, 0, stream>>>(args, columns);
}

}  // namespace

void expand_key_values(const ExpandKeyValues& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return;  // an empty grid is a launch error
  const std::size_t element_bytes = size_of(args.dtype);
  const auto is_whole = [&](std::int64_t columns) {
    return static_cast<std::size_t>(columns) * element_bytes % sizeof(uint4) == 0;
  };
  const bool aligned =
      are_aligned({args.key_states, args.value_states, args.kv, args.k_rot}, args.rotated_columns, element_bytes) &&
      is_whole(args.plain_columns) && is_whole(args.value_columns);
  if (aligned) {
    launch<uint4>(args, stream);
  } else if (element_bytes == 8) {
    launch<std::uint64_t>(args, stream);
  } else if (element_bytes == 4) {
    launch<std::uint32_t>(args, stream);
  } else {
    launch<std::uint16_t>(args, stream);
  }
  check(cudaGetLastError(), "launch expand_key_values");
}

}  // namespace layerprobe::kernels
