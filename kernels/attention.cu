// Which kernel takes which dtype on which GPU.
#include "kernels/attention.h"

#include "kernels/attention.cuh"
#include "kernels/check.h"

namespace layerprobe::kernels {

std::int32_t attention_tile_queries(Dtype dtype, std::int32_t head_dim) {
  if (size_of(dtype) == 2) return 128;
  return dtype == Dtype::f64 && head_dim > 128 ? 32 : 64;
}

void attention(const Attention& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return;  // an empty grid is a launch error
  if (size_of(args.dtype) > 2) {
    attention_fma(args, stream);
  } else if (args.capability == 90) {  // wgmma is of this one only
    attention_wgmma(args, stream);
  } else {
    attention_mma(args, stream);
  }
  check(cudaGetLastError(), "launch attention");
}

}  // namespace layerprobe::kernels
