#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {

std::vector<const Loops*> supported_loops() { return {&kBaselineLoops}; }

}  // namespace layerprobe::device::cpu
