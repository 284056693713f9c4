#include "device/arguments.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device {
namespace {

struct Named {
  const char* name;
  const Tensor& tensor;
};

std::string described(const Named& named) {
  return text(named.name, " is [", named.tensor.rows, ", ", named.tensor.columns, "] ", name_of(named.tensor.dtype));
}

[[noreturn]] void refuse(const char* operation, const std::string& what) {
  throw Error({.kind = ErrorKind::bug, .where = operation, .what = what});
}

/// Throws "<a> where <b>" unless `holds`.
void require(bool holds, const char* operation, const Named& a, const Named& b) {
  if (!holds) refuse(operation, described(a) + " where " + described(b));
}

void require_same_dtype(const char* operation, const Named& a, const Named& b) {
  require(a.tensor.dtype == b.tensor.dtype, operation, a, b);
}

void require_same_shape(const char* operation, const Named& a, const Named& b) {
  require(a.tensor.rows == b.tensor.rows && a.tensor.columns == b.tensor.columns, operation, a, b);
  require_same_dtype(operation, a, b);
}

/// The matrix that the values become, without data.
Tensor shape_of(const StoredValues& values, Dtype dtype) {
  return Tensor::contiguous(nullptr, dtype, values.rows, values.columns);
}

void check_stored(const char* operation, const Named& shape, const StoredValues& values) {
  if (values.rows <= 0 || values.columns <= 0 || shape.tensor.dtype == Dtype::i32) {
    refuse(operation, described(shape) + " where a matrix of floating numbers is expected");
  }
  const std::int64_t block = traits_of(values.storage).block_elements;
  const bool is_scaled = values.scales.has_value() && values.storage == Storage::f8_e4m3;
  if ((!is_convertible(values.storage) && !is_scaled) || values.columns % block != 0) {
    refuse(operation, text(described(shape), " and stored as ", name_of(values.storage)));
  }
  const std::int64_t heads = values.interleaved_heads, interleaved = values.rows == 1 ? values.columns : values.rows;
  if (heads < 0 || (heads > 0 && (interleaved % (2 * heads) != 0 || (values.rows == 1 && block != 1)))) {
    refuse(operation, text(described(shape), " and interleaved for ", heads, " heads"));
  }
  if (values.file == nullptr || !values.read_values) refuse(operation, described(shape) + " and comes from no file");
}

/// cu_seqlens (called `name` there) begins with 0, never falls and ends with the rows of x; `empty` prompts may be
/// allowed.
void require_prompts(const char* operation, const char* name, std::span<const std::int64_t> cu_seqlens, const Named& x,
                     bool empty) {
  if (cu_seqlens.empty() || cu_seqlens.front() != 0 || cu_seqlens.back() != x.tensor.rows) {
    refuse(operation, text(name, " goes from ", cu_seqlens.empty() ? -1 : cu_seqlens.front(), " to ",
                           cu_seqlens.empty() ? -1 : cu_seqlens.back(), " where ", described(x)));
  }
  for (std::size_t i = 1; i < cu_seqlens.size(); ++i) {
    const std::int64_t length = cu_seqlens[i] - cu_seqlens[i - 1];
    if (length < 0 || (length == 0 && !empty)) {
      refuse(operation, text("prompt ", i - 1, " has ", length, " rows in ", name));
    }
  }
}

void check_indices(const char* operation, const Named& indices) {
  check_tensor(operation, indices.name, indices.tensor, Elements::any);
  if (indices.tensor.dtype != Dtype::i32) refuse(operation, described(indices) + " where int32 is expected");
}

/// Of what a token's experts count.
Dtype weights_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

}  // namespace

void check_tensor(const char* operation, const char* name, const Tensor& tensor, Elements elements) {
  const Named named{name, tensor};
  if (tensor.rows < 0 || tensor.columns <= 0 || (tensor.dtype == Dtype::i32 && elements == Elements::floating)) {
    refuse(operation, described(named) + " where a matrix of floating numbers is expected");
  }
  if (tensor.rows > 1 && tensor.row_stride < tensor.columns) {
    refuse(operation, text(described(named), " and its rows are ", tensor.row_stride, " elements apart"));
  }
  if (tensor.rows > 0 && tensor.data == nullptr) refuse(operation, described(named) + " and has no data");
}

void check(const Ops::Load& args) {
  constexpr const char* kOperation = "load";
  const Tensor values = shape_of(args.values, args.out.dtype);
  const Named out{"out", args.out};
  check_tensor(kOperation, "out", args.out);
  require(args.out.rows == values.rows && args.out.columns == values.columns, kOperation, {"values", values}, out);
  check_stored(kOperation, {"values", values}, args.values);
}

void check(const Ops::MatMulWeightParts& parts) {
  constexpr const char* kOperation = "matmul_weight";
  if (parts.weights.empty()) refuse(kOperation, "no weight is given");
  const Tensor first = shape_of(parts.weights[0], parts.dtype);
  for (const StoredValues& values : parts.weights) {
    const Tensor weight = shape_of(values, parts.dtype);
    require(weight.columns == first.columns, kOperation, {"weight", weight}, {"weights[0]", first});
    check_stored(kOperation, {"weight", weight}, values);
  }
  if (parts.biases.empty()) return;
  if (parts.biases.size() != parts.weights.size()) {
    refuse(kOperation, text(parts.biases.size(), " biases where there are ", parts.weights.size(), " weights"));
  }
  for (std::size_t i = 0; i < parts.biases.size(); ++i) {
    if (!parts.biases[i]) continue;
    const Tensor bias = shape_of(*parts.biases[i], parts.dtype), weight = shape_of(parts.weights[i], parts.dtype);
    require(bias.rows == 1 && bias.columns == weight.rows, kOperation, {"bias", bias}, {"weight", weight});
    check_stored(kOperation, {"bias", bias}, *parts.biases[i]);
  }
}

void check(const Ops::ExpertWeightsParts& parts) {
  constexpr const char* kOperation = "expert_weights";
  if (parts.experts.empty()) refuse(kOperation, "no expert is given");
  const std::vector<StoredValues>& first = parts.experts[0];
  for (const std::vector<StoredValues>& expert : parts.experts) {
    check({.dtype = parts.dtype, .weights = expert});
    if (expert.size() != first.size()) {
      refuse(kOperation, text(expert.size(), " parts of an expert where the first has ", first.size()));
    }
    for (std::size_t i = 0; i < expert.size(); ++i) {
      const Tensor part = shape_of(expert[i], parts.dtype), of_first = shape_of(first[i], parts.dtype);
      require_same_shape(kOperation, {"part", part}, {"that of the first expert", of_first});
    }
  }
}

void check(const Ops::MatMul& args, Dtype weight_dtype) {
  constexpr const char* kOperation = "matmul";
  const Named out{"out", args.out}, x{"x", args.x};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "x", args.x);
  const Tensor weight = {
      .dtype = weight_dtype, .rows = args.weight.out_features(), .columns = args.weight.in_features()};
  const Named named_weight{"weight", weight};
  require(args.x.columns == weight.columns, kOperation, named_weight, x);
  require(args.out.columns == weight.rows, kOperation, named_weight, out);
  require_same_dtype(kOperation, named_weight, x);
  require_same_dtype(kOperation, named_weight, out);
  require(args.out.rows == args.x.rows, kOperation, out, x);
}

void check(const Ops::Embedding& args) {
  constexpr const char* kOperation = "embedding";
  const Named out{"out", args.out}, weight{"weight", args.weight};
  check_tensor(kOperation, "out", args.out, Elements::any);
  check_tensor(kOperation, "weight", args.weight, Elements::any);
  require(args.out.columns == args.weight.columns, kOperation, out, weight);
  require_same_dtype(kOperation, out, weight);
  if (args.out.rows != static_cast<std::int64_t>(args.input_ids.size())) {
    refuse(kOperation, text(args.input_ids.size(), " input_ids where ", described(out)));
  }
  for (const std::int32_t id : args.input_ids) {
    if (id < 0 || id >= args.weight.rows) refuse(kOperation, text("input id ", id, " where ", described(weight)));
  }
}

void check(const Ops::RmsNorm& args) {
  constexpr const char* kOperation = "rms_norm";
  const Named out{"out", args.out}, x{"hidden_states", args.hidden_states}, weight{"weight", args.weight};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "hidden_states", args.hidden_states);
  check_tensor(kOperation, "weight", args.weight);
  require_same_shape(kOperation, out, x);
  require(args.weight.rows == 1 && args.out.columns % args.weight.columns == 0, kOperation, weight, x);
  require_same_dtype(kOperation, weight, x);
}

void check(const Ops::AddRmsNorm& args) {
  constexpr const char* kOperation = "add_rms_norm";
  const Named sum{"sum", args.sum}, normed{"normed", args.normed}, a{"a", args.a}, b{"b", args.b};
  for (const Named& named : {sum, normed, a, b}) check_tensor(kOperation, named.name, named.tensor);
  check_tensor(kOperation, "weight", args.weight);
  for (const Named& named : {b, sum, normed}) require_same_shape(kOperation, named, a);
  require(args.weight.rows == 1 && args.weight.columns == args.a.columns, kOperation, {"weight", args.weight}, a);
  require_same_dtype(kOperation, {"weight", args.weight}, a);
}

void check(const Ops::Rope& args) {
  constexpr const char* kOperation = "rope";
  const Named x{"x", args.x}, cos{"cos", args.cos}, sin{"sin", args.sin};
  check_tensor(kOperation, "x", args.x);
  check_tensor(kOperation, "cos", args.cos);
  check_tensor(kOperation, "sin", args.sin);
  require_same_shape(kOperation, sin, cos);
  require(args.cos.rows == args.x.rows, kOperation, cos, x);
  require_same_dtype(kOperation, cos, x);
  if (args.head_dim <= 0 || args.x.columns % args.head_dim != 0 || args.first < 0 ||
      args.first + 2 * args.cos.columns > args.head_dim) {
    refuse(kOperation, text("head_dim is ", args.head_dim, " where ", described(x), " and ", described(cos),
                            args.first != 0 ? text(", from column ", args.first) : ""));
  }
}

void check(const Ops::Attention& args) {
  constexpr const char* kOperation = "attention";
  const Named out{"out", args.out}, query{"query_states", args.query_states};
  const Named key{"key_states", args.key_states}, value{"value_states", args.value_states};
  for (const Named& named : {out, query, key, value}) check_tensor(kOperation, named.name, named.tensor);
  require(args.out.rows == args.query_states.rows, kOperation, out, query);
  require(args.value_states.rows == args.key_states.rows, kOperation, value, key);
  require(args.key_states.rows == args.query_states.rows, kOperation, key, query);
  for (const Named& named : {key, value, out}) require_same_dtype(kOperation, named, query);
  const std::int64_t head_dim = args.head_dim;
  if (head_dim <= 0 || args.query_states.columns % head_dim != 0 || args.key_states.columns % head_dim != 0 ||
      args.query_states.columns % args.key_states.columns != 0) {
    refuse(kOperation, text("head_dim is ", head_dim, " where ", described(query), " and ", described(key)));
  }
  require(args.value_states.columns % args.num_key_value_heads() == 0, kOperation, value, key);
  require(args.out.columns == args.num_heads() * args.value_head_dim(), kOperation, out, value);
  require_prompts(kOperation, "cu_seqlens", args.cu_seqlens, query, true);
  if (!(args.scaling > 0) || !std::isfinite(args.scaling)) refuse(kOperation, text("scaling is ", args.scaling));
  if (args.sliding_window < 0) refuse(kOperation, text("sliding_window is ", args.sliding_window));
}

void check(const Ops::ExpandKeyValues& args) {
  constexpr const char* kOperation = "expand_key_values";
  const Named key{"key_states", args.key_states}, value{"value_states", args.value_states};
  const Named kv{"kv", args.kv}, k_rot{"k_rot", args.k_rot};
  for (const Named& named : {key, value, kv, k_rot}) {
    check_tensor(kOperation, named.name, named.tensor);
    require(named.tensor.rows == args.kv.rows, kOperation, named, kv);
    require_same_dtype(kOperation, named, kv);
  }
  const std::int64_t heads = args.num_heads;
  if (heads <= 0 || args.key_states.columns % heads != 0 || args.value_states.columns % heads != 0 ||
      args.key_states.columns <= heads * args.k_rot.columns ||
      args.key_states.columns + args.value_states.columns != args.kv.columns + heads * args.k_rot.columns) {
    refuse(kOperation, text("num_heads is ", heads, " where ", described(key), ", ", described(value), ", ",
                            described(kv), " and ", described(k_rot)));
  }
}

void check(const Ops::SiluMul& args) {
  constexpr const char* kOperation = "silu_mul";
  const Named out{"out", args.out}, gate{"gate", args.gate}, up{"up", args.up};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "gate", args.gate);
  require_same_shape(kOperation, out, gate);
  if (args.up.data == nullptr) return;
  check_tensor(kOperation, "up", args.up);
  require_same_shape(kOperation, up, gate);
}

void check(const Ops::Add& args) {
  constexpr const char* kOperation = "add";
  const Named out{"out", args.out}, a{"a", args.a}, b{"b", args.b};
  for (const Named& named : {out, a, b}) check_tensor(kOperation, named.name, named.tensor);
  require_same_shape(kOperation, b, a);
  require_same_shape(kOperation, out, a);
}

void check(const Ops::Expand& args) {
  constexpr const char* kOperation = "expand";
  const Named out{"out", args.out}, x{"x", args.x};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "x", args.x);
  require(args.out.rows == args.x.rows && args.out.columns == args.x.columns && args.out.dtype == Dtype::f32 &&
              size_of(args.x.dtype) == 2,
          kOperation, out, x);
}

void check(const Ops::RouteTokens& args) {
  constexpr const char* kOperation = "route_tokens";
  const Named indices{"topk_indices", args.topk_indices}, weights{"topk_weights", args.topk_weights};
  const Named logits{"router_logits", args.router_logits}, bias{"selection_bias", args.selection_bias};
  check_indices(kOperation, indices);
  check_tensor(kOperation, weights.name, args.topk_weights);
  check_tensor(kOperation, logits.name, args.router_logits);
  require(args.topk_weights.rows == args.topk_indices.rows && args.topk_weights.columns == args.topk_indices.columns,
          kOperation, weights, indices);
  require(args.router_logits.rows == args.topk_indices.rows && args.topk_indices.columns <= args.router_logits.columns,
          kOperation, indices, logits);
  require(args.topk_weights.dtype == weights_dtype(args.router_logits.dtype), kOperation, weights, logits);
  const std::int64_t num_experts = args.router_logits.columns;
  if (args.num_groups < 1 || num_experts % args.num_groups != 0 || args.topk_groups < 1 ||
      args.topk_groups > args.num_groups || (args.num_groups > 1 && num_experts / args.num_groups < 2) ||
      args.topk_groups * (num_experts / args.num_groups) < args.topk_indices.columns) {
    refuse(kOperation, text("the best of ", args.topk_groups, " of ", args.num_groups, " groups where ",
                            described(indices), " and ", described(logits)));
  }
  if (args.selection_bias.data == nullptr) return;
  require(args.selection_bias.rows == 1 && args.selection_bias.columns == args.router_logits.columns, kOperation, bias,
          logits);
  require_same_dtype(kOperation, bias, weights);
}

void check(const Ops::GroupByExpert& args) {
  constexpr const char* kOperation = "group_by_expert";
  const Named indices{"topk_indices", args.topk_indices}, rows{"row_of_choice", args.row_of_choice};
  const Named tokens{"token_of_row", args.token_of_row};
  for (const Named& named : {indices, rows, tokens}) check_indices(kOperation, named);
  require_same_shape(kOperation, rows, indices);
  require(
      args.token_of_row.columns == 1 && args.token_of_row.rows == args.topk_indices.rows * args.topk_indices.columns,
      kOperation, tokens, indices);
  if (static_cast<std::int64_t>(args.first_rows.size()) <= args.topk_indices.columns) {
    refuse(kOperation, text(args.first_rows.size(), " first_rows where ", described(indices)));
  }
}

void check(const Ops::GatherRows& args) {
  constexpr const char* kOperation = "gather_rows";
  const Named out{"out", args.out}, x{"x", args.x}, rows{"rows", args.rows};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "x", args.x);
  check_indices(kOperation, rows);
  require(args.out.columns == args.x.columns, kOperation, out, x);
  require_same_dtype(kOperation, out, x);
  require(args.rows.columns == 1 && args.rows.rows == args.out.rows && args.rows.is_contiguous(), kOperation, rows,
          out);
}

void check(const Ops::ExpertMatMul& args, Dtype weight_dtype) {
  constexpr const char* kOperation = "expert_matmul";
  const Named out{"out", args.out}, x{"x", args.x};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "x", args.x);
  const Tensor weight = {
      .dtype = weight_dtype, .rows = args.weight.out_features(), .columns = args.weight.in_features()};
  const Named named_weight{"weight", weight};
  require(args.x.columns == weight.columns, kOperation, named_weight, x);
  require(args.out.columns == weight.rows, kOperation, named_weight, out);
  require_same_dtype(kOperation, named_weight, x);
  require_same_dtype(kOperation, named_weight, out);
  require(args.out.rows == args.x.rows, kOperation, out, x);
  const auto num_experts = static_cast<std::int64_t>(args.first_rows.size()) - 1;
  if (num_experts < 0 || args.first_expert < 0 || args.first_expert + num_experts > args.weight.num_experts()) {
    refuse(kOperation, text("experts ", args.first_expert, " to ", args.first_expert + num_experts, " where there are ",
                            args.weight.num_experts()));
  }
  if (args.first_rows.back() - args.first_rows.front() != args.x.rows ||
      !std::is_sorted(args.first_rows.begin(), args.first_rows.end())) {
    refuse(kOperation, text("first_rows go from ", args.first_rows.front(), " to ", args.first_rows.back(), " where ",
                            described(x)));
  }
}

void check(const Ops::RunExperts& args) {
  const std::int64_t width = args.activated.columns;
  const Dtype dtype = args.x.dtype;
  check(Ops::GatherRows{.out = args.inputs, .x = args.x, .rows = args.token_of_row});
  check(Ops::ExpertMatMul{.out = args.gate_up,
                          .x = args.inputs,
                          .weight = args.gate_up_proj,
                          .first_expert = args.first_expert,
                          .first_rows = args.first_rows},
        dtype);
  require(args.gate_up.columns == 2 * width, "run_experts", Named{"gate_up", args.gate_up},
          Named{"activated", args.activated});
  check(Ops::ExpertMatMul{.out = args.out,
                          .x = args.activated,
                          .weight = args.down_proj,
                          .first_expert = args.first_expert,
                          .first_rows = args.first_rows},
        dtype);
}

void check(const Ops::CombineExperts& args) {
  constexpr const char* kOperation = "combine_experts";
  const Named out{"out", args.out}, outputs{"expert_outputs", args.expert_outputs};
  const Named rows{"row_of_choice", args.row_of_choice}, weights{"topk_weights", args.topk_weights};
  for (const Named& named : {out, outputs, weights}) check_tensor(kOperation, named.name, named.tensor);
  check_indices(kOperation, rows);
  require(args.out.columns == args.expert_outputs.columns, kOperation, out, outputs);
  require_same_dtype(kOperation, out, outputs);
  require(args.row_of_choice.rows == args.out.rows, kOperation, rows, out);
  require(args.expert_outputs.rows == args.row_of_choice.rows * args.row_of_choice.columns, kOperation, outputs, rows);
  require(args.topk_weights.rows == args.row_of_choice.rows &&
              args.topk_weights.columns == args.row_of_choice.columns &&
              args.topk_weights.dtype == weights_dtype(args.out.dtype),
          kOperation, weights, rows);
}

void check(const Ops::AppendStatistics& args) {
  constexpr const char* kOperation = "append_statistics";
  check_tensor(kOperation, "x", args.x, Elements::any);
  require_prompts(kOperation, "cu_rows", args.cu_rows, {"x", args.x}, true);
  if (args.out.size() + 1 != args.cu_rows.size()) {
    refuse(kOperation, text("out has ", args.out.size(), " prompts where cu_rows has ", args.cu_rows.size() - 1));
  }
  for (const Statistics& out : args.out) {
    if (out.count % args.x.columns != 0) {
      refuse(kOperation, text("out has ", out.count, " elements where ", described({"x", args.x})));
    }
  }
}

void check(const Ops::MeanRows& args) {
  constexpr const char* kOperation = "mean_rows";
  const Named out{"out", args.out}, x{"x", args.x};
  check_tensor(kOperation, "out", args.out);
  check_tensor(kOperation, "x", args.x, Elements::any);
  require_prompts(kOperation, "cu_seqlens", args.cu_seqlens, x, false);
  require(args.out.dtype == Dtype::f32 && args.out.columns == args.x.columns &&
              args.out.rows + 1 == static_cast<std::int64_t>(args.cu_seqlens.size()),
          kOperation, out, x);
}

}  // namespace layerprobe::device
