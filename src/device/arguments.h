#pragma once

#include "device/ops.h"

namespace layerprobe::device {

/// The checks of an operation's arguments that every backend makes before it runs: shapes, dtypes and bounds. They
/// throw Error(bug) with the operation as `where` and both shapes in `what`.
void check(const Ops::Load& args);
void check(const Ops::MatMulWeightParts& parts);
void check(const Ops::ExpertWeightsParts& parts);
void check(const Ops::MatMul& args, Dtype weight_dtype);
void check(const Ops::Expand& args);
void check(const Ops::RouteTokens& args);
void check(const Ops::GroupByExpert& args);
void check(const Ops::GatherRows& args);
void check(const Ops::ExpertMatMul& args, Dtype weight_dtype);
void check(const Ops::RunExperts& args);
void check(const Ops::CombineExperts& args);
void check(const Ops::Embedding& args);
void check(const Ops::RmsNorm& args);
void check(const Ops::AddRmsNorm& args);
void check(const Ops::Rope& args);
void check(const Ops::Attention& args);
void check(const Ops::ExpandKeyValues& args);
void check(const Ops::SiluMul& args);
void check(const Ops::Add& args);
void check(const Ops::AppendStatistics& args);
void check(const Ops::MeanRows& args);
/// For the copies: `name` is what the tensor is called there.
enum class Elements { floating, any };
void check_tensor(const char* operation, const char* name, const Tensor& tensor,
                  Elements elements = Elements::floating);

}  // namespace layerprobe::device
