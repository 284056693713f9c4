#include "device/ops.h"

namespace layerprobe::device {

void Ops::run_experts(const RunExperts& args) {
  const std::int64_t width = args.activated.columns;
  gather_rows({.out = args.inputs, .x = args.x, .rows = args.token_of_row});
  expert_matmul({.out = args.gate_up,
                 .x = args.inputs,
                 .weight = args.gate_up_proj,
                 .first_expert = args.first_expert,
                 .first_rows = args.first_rows});
  silu_mul({.out = args.activated,
            .gate = args.gate_up.column_slice(0, width),
            .up = args.gate_up.column_slice(width, width)});
  expert_matmul({.out = args.out,
                 .x = args.activated,
                 .weight = args.down_proj,
                 .first_expert = args.first_expert,
                 .first_rows = args.first_rows});
}

}  // namespace layerprobe::device
