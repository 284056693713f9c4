#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {

std::vector<const Loops*> supported_loops() {
  std::vector<const Loops*> loops;
  if (__builtin_cpu_supports("x86-64-v4")) {
    if (__builtin_cpu_supports("avx512bf16")) loops.push_back(&kAvx512Bf16Loops);
    loops.push_back(&kAvx512Loops);
  }
  if (__builtin_cpu_supports("x86-64-v3")) loops.push_back(&kAvx2Loops);
  loops.push_back(&kBaselineLoops);
  return loops;
}

}  // namespace layerprobe::device::cpu
