#pragma once

#include "device/cpu/loops.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// As the operations of Ops, arguments checked, for some of the tokens. Plain code, the same on every instruction set:
/// next to the experts' products these take no time.
void route_tokens(const Ops::RouteTokens& args, Rows tokens);
void group_by_expert(const Ops::GroupByExpert& args);
void combine_experts(const Ops::CombineExperts& args, Rows tokens);

}  // namespace layerprobe::device::cpu
