// Which kernel takes which dtype.
#include "kernels/attention.h"

#include "kernels/attention.cuh"
#include "kernels/check.h"

namespace layerprobe::kernels {

std::int32_t attention_tile_queries(Dtype dtype) { return dtype == Dtype::f64 ? 32 : dtype == Dtype::f32 ? 64 : 128; }

void attention(const Attention& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return;  // an empty grid is a launch error
  if (size_of(args.dtype) == 2) {
    attention_mma(args, stream);
  } else {
    attention_fma(args, stream);
  }
  check(cudaGetLastError(), "launch attention");
}

}  // namespace layerprobe::kernels
