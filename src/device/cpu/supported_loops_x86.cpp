#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {

std::vector<const Loops*> supported_loops() {
  std::vector<const Loops*> loops;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    loops.push_back(&kAvx512Loops);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) loops.push_back(&kAvx2Loops);
  loops.push_back(&kBaselineLoops);
  return loops;
}

}  // namespace layerprobe::device::cpu
