#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/statistics.h"
#include "device/stored_values.h"
#include "device/tensor.h"

namespace layerprobe::device {

/// Memory of one device. Given back when it goes.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes, std::function<void(void*)> release)
      : data_(data, std::move(release)), bytes_(bytes) {}

  void* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
  std::size_t bytes_ = 0;
};

/// The weight of a matrix product in whatever layout its device likes best; made by Ops::matmul_weight.
class MatMulWeight {
 public:
  virtual ~MatMulWeight() = default;
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t out_features() const = 0;
  virtual std::size_t bytes() const = 0;
};

/// One matrix of every expert of a layer, in whatever layout its device likes best; made by Ops::expert_weights.
class ExpertWeights {
 public:
  virtual ~ExpertWeights() = default;
  virtual std::int64_t num_experts() const = 0;
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t out_features() const = 0;
  virtual std::size_t bytes() const = 0;
};

/// A moment in a device's work: all that was queued before it. Ops::mark makes it; ends before its device does.
class Mark {
 public:
  virtual ~Mark() = default;
  /// Returns once the work is done and its results are where they should be; throws when the device failed. Once, by
  /// any one thread, also while others queue more.
  virtual void wait() = 0;
};

/// A moment in a device's work that the work of any device can follow without the host waiting: Ops::follow. Ends
/// before its device does.
class Moment {
 public:
  virtual ~Moment() = default;
  /// The host waits. Any thread.
  virtual void wait() const = 0;
};

/// A way of its own from one device to another: Ops::nccl_channel. Ends before both.
class Channel {
 public:
  virtual ~Channel() = default;
};

/// Values on their way from files to a device: Ops::start_loads. Ends before its device does; ending it stops them.
class Loads {
 public:
  virtual ~Loads() = default;
  /// Returns once the values are there. `read` is told the stored bytes that have been read since it was told last,
  /// several times a second, on the calling thread; what it throws ends the loading. Throws the first failure of a
  /// reading thread, Error(input) where a file ends too early. Either way nothing is on its way any more on return.
  /// Once.
  virtual void wait(const std::function<void(std::uint64_t bytes)>& read) = 0;
};

/// How long a device works on what is queued between start() and stop(), whatever the host does meanwhile. One thread,
/// its device's.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  virtual void start() = 0;
  virtual void stop() = 0;
  /// Of all that was measured; after synchronize().
  virtual double seconds() = 0;
};

/// One device that can run a layer: the host's processors, or one GPU.
///
/// Calls are queued in order and may return before the work is done; synchronize() waits, and Mark::wait. Every tensor
/// of a call lives on this device; all of them have one floating dtype (f64, f32, f16 or bf16) unless the call says
/// otherwise. "Rounded" is rounded to that dtype, to nearest, ties to even. Inside a call arithmetic is f32, or f64
/// where the tensors are f64. Rows of a result never depend on which other rows are in the call: the same bits whatever
/// the batch. Arguments are checked here, once, by shape and dtype: Error(bug). One thread at a time.
class Ops {
 public:
  virtual ~Ops() = default;

  /// As the user names it: "cpu", "cpu:1", "cuda:0".
  virtual std::string name() const = 0;
  /// The code path whose bits these are, recorded in the file: instruction set, library and its version.
  virtual std::string code_path() const = 0;
  virtual void synchronize() = 0;

  /// At least `bytes`, aligned to 64 bytes; contents unspecified. Throws Error(resource) when there is not enough.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// How much allocate could still give, about: other programs take memory too.
  virtual std::uint64_t free_bytes() = 0;
  /// out[r, :] = the row's bytes at host + r * out.columns elements, row-major; `host` is free again on return.
  virtual void copy_from_host(const Tensor& out, const void* host) = 0;
  /// The rows of x, packed row-major, to `host`; complete on return.
  virtual void copy_to_host(void* host, const Tensor& x) = 0;

  /// Memory of the host that start_copy_to_host can fill, aligned to 4096 bytes; any thread. Throws Error(resource).
  virtual Buffer allocate_on_host(std::size_t bytes) = 0;
  /// copy_to_host beside the operations that are queued later: complete once a mark() made after it has passed. What
  /// writes over x later waits for the copy. `host` lies in memory of allocate_on_host.
  virtual void start_copy_to_host(void* host, const Tensor& x) = 0;
  virtual std::unique_ptr<Mark> mark() = 0;

  /// All operations and copies that have been queued so far.
  virtual std::unique_ptr<Moment> moment() = 0;
  /// What is queued from now on comes after that moment of this or another device.
  virtual void follow(const Moment& moment) = 0;
  /// Memory that other devices may write to, and that is fastest to send from.
  virtual Buffer allocate_shared(std::size_t bytes) = 0;
  /// copy_from_host beside the operations: `out`, contiguous, is written once `after` (nothing: now) has come, and has
  /// the values at the moment that is returned; what reads it follows that. `host` lies in memory of allocate_on_host,
  /// of whichever device, and stays until then.
  virtual std::unique_ptr<Moment> start_copy_from_host(const Tensor& out, const void* host, const Moment* after) = 0;
  /// Whether this device can write to the other's memory by itself.
  virtual bool reaches(const Ops& other) const = 0;
  struct Send {
    Tensor out;                  // contiguous, in memory of receiver's allocate_shared
    Ops& receiver;               // another device, that this one reaches or that the channel leads to
    Tensor x;                    // contiguous, on this device; what writes over it later waits
    const Moment* after;         // of the receiver: until then out is in use; nullptr: it is not
    Channel* channel = nullptr;  // from this device to the receiver; nullptr: by a copy
  };
  /// out = x beside the operations of both devices; it is there at the moment that is returned. Nothing of the receiver
  /// is called that its own thread would be kept from.
  virtual std::unique_ptr<Moment> send(const Send& args) = 0;
  /// A way to the receiver by NCCL; nothing between other devices than GPUs. Throws Error(device) where there is no
  /// NCCL, or where it cannot start.
  virtual std::unique_ptr<Channel> nccl_channel(const Ops& /*receiver*/) { return nullptr; }
  virtual std::unique_ptr<Stopwatch> stopwatch() = 0;

  struct MemoryUse {
    std::uint64_t bytes;       // that allocate, allocate_shared and matmul_weight have given, and hold now
    std::uint64_t most_bytes;  // at any time
  };
  /// Any thread.
  virtual MemoryUse memory_use() const = 0;

  struct CaptureResources {
    std::size_t ring_bytes;  // of memory on the host for values on their way to the file
    int writers;             // threads that bring them there
  };
  /// What keeps captures from holding the device up.
  virtual CaptureResources capture_resources() = 0;

  /// Whether weights that are stored as FP8 stay so in its memory, and are expanded when they are multiplied.
  virtual bool keeps_fp8() const = 0;

  /// From now on weights that are stored as FP8 are multiplied as such, in matmul and expert_matmul, and so are the
  /// inputs: of each row's blocks of 128 columns, x / s rounded to F8_E4M3, where s is their largest magnitude / 448 in
  /// f32. A product is the sum over blocks of (sum over the block, in f32) * s * the weights' own factor, rounded once.
  /// False where the device cannot. Source: transformers' integrations/finegrained_fp8.py.
  virtual bool multiply_fp8() { return false; }

  /// Says that allocations of about `bytes` in all come next, for a device that is slow to make room for each by
  /// itself.
  virtual void reserve(std::size_t bytes) = 0;

  struct Load {
    Tensor out;  // [rows, columns]
    StoredValues values;
  };
  /// out = the values in out's dtype. Queued: the values are there once Loads::wait has returned, and until then out
  /// and the file stay.
  virtual void load(const Load& args) = 0;

  struct MatMulWeightParts {
    Dtype dtype;
    /// [out_features, in_features] each, stacked along out_features in this order (q, k, v; gate, up).
    std::vector<StoredValues> weights;
    /// As many as weights, each [1, out_features] or nothing (zeros for that part); or empty.
    std::vector<std::optional<StoredValues>> biases = {};
  };
  /// Queued like load().
  virtual std::unique_ptr<MatMulWeight> matmul_weight(const MatMulWeightParts& parts) = 0;

  struct ExpertWeightsParts {
    Dtype dtype;
    /// Of each expert, as in MatMulWeightParts; all experts have parts of the same shapes.
    std::vector<std::vector<StoredValues>> experts;
  };
  /// Queued like load().
  virtual std::unique_ptr<ExpertWeights> expert_weights(const ExpertWeightsParts& parts) = 0;

  /// Begins to carry out the loads that are queued; operations go on beside them. Memory that they fill may be in use
  /// by operations that were queued before.
  virtual std::unique_ptr<Loads> start_loads() = 0;
  /// Begins to carry out the queued loads from the memory of `donor`, which has carried out its last start_loads, of
  /// the same values in the same order, and leaves them alone until Loads::wait has returned here. Nothing where the
  /// devices have no such way: the loads stay queued.
  virtual std::unique_ptr<Loads> start_copies(const Ops& /*donor*/) { return nullptr; }
  /// Carries them out: start_loads and Loads::wait.
  void finish_loads(const std::function<void(std::uint64_t bytes)>& read) { start_loads()->wait(read); }

  struct MatMul {
    Tensor out;  // [num_tokens, out_features]; overlaps no input
    Tensor x;    // [num_tokens, in_features]
    const MatMulWeight& weight;
  };
  /// out = rounded(x @ weight^T + bias): the sum over in_features and the bias in f32 (f64 for f64), rounded once.
  /// Source: torch.nn.functional.linear.
  virtual void matmul(const MatMul& args) = 0;

  struct MatMulShape {
    std::int64_t in_features;
    std::int64_t out_features;
    Dtype dtype;
    bool has_bias;
    bool multiplies_fp8 = false;  // as multiply_fp8 has it

    auto operator<=>(const MatMulShape&) const = default;
  };
  /// How weights of these shapes are multiplied, where a device's library leaves a choice that bits depend on: one for
  /// each shape, whatever the number of tokens. Choosing may take some milliseconds a shape; matmul does it at a
  /// shape's first use otherwise. The text is for the file, so that whoever continues the run, or shares it on another
  /// GPU of the model, multiplies alike. Empty where there is nothing to choose.
  virtual std::string matmul_choices(std::span<const MatMulShape> shapes) = 0;
  /// Takes what matmul_choices said in place of choosing. Before the first product. Throws Error(input) when it cannot
  /// be read.
  virtual void use_matmul_choices(std::string_view choices) = 0;

  struct Embedding {
    Tensor out;                               // [num_tokens, hidden_size]
    Tensor weight;                            // [vocab_size, hidden_size]
    std::span<const std::int32_t> input_ids;  // [num_tokens], on the host, each in [0, vocab_size)
  };
  /// out[t, :] = weight[input_ids[t], :]; of any dtype
  virtual void embedding(const Embedding& args) = 0;

  struct RmsNorm {
    Tensor out;            // [num_tokens, num_groups * group_size]; may be hidden_states
    Tensor hidden_states;  // [num_tokens, num_groups * group_size]
    Tensor weight;         // [1, group_size]
    double rms_norm_eps;
  };
  /// Each group of group_size columns by itself (one group for a layer norm, a head a group for q_norm and k_norm):
  /// out[t, h] = rounded(weight[h] * rounded(x[t, h] / sqrt(mean_h(x[t, h]^2) + rms_norm_eps)))
  /// Source: LlamaRMSNorm in transformers; Zhang and Sennrich 2019, arXiv:1910.07467.
  virtual void rms_norm(const RmsNorm& args) = 0;

  struct AddRmsNorm {
    Tensor sum;     // [num_tokens, hidden_size]; may be a or b
    Tensor normed;  // [num_tokens, hidden_size]; overlaps no other
    Tensor a;       // [num_tokens, hidden_size]
    Tensor b;       // [num_tokens, hidden_size]
    Tensor weight;  // [1, hidden_size]
    double rms_norm_eps;
  };
  /// add to sum, then rms_norm of the rounded sum to normed, in one pass where a device gains by it.
  virtual void add_rms_norm(const AddRmsNorm& args) = 0;

  struct Rope {
    Tensor x;    // [num_tokens, num_heads * head_dim], rotated in place
    Tensor cos;  // [num_tokens, rotary_dim / 2]
    Tensor sin;  // [num_tokens, rotary_dim / 2]
    std::int64_t head_dim;
    std::int64_t first = 0;    // of a head's columns that are rotated
    bool interleaved = false;  // a pair is two neighbours
  };
  /// In each head, with d = rotary_dim (of cos) and j < d / 2, lo = x[first + j], hi = x[first + j + d / 2]
  /// (`interleaved`: x[first + 2j] and x[first + 2j + 1]):
  ///   lo becomes rounded(rounded(lo * cos[j]) - rounded(hi * sin[j]))
  ///   hi becomes rounded(rounded(hi * cos[j]) + rounded(lo * sin[j]))
  /// The other columns stay. Source: apply_rotary_pos_emb in transformers' modeling_llama.py; for interleaved pairs
  /// apply_rotary_pos_emb_interleave in modeling_deepseek_v3.py, which leaves each head's rotated columns in another
  /// order.
  virtual void rope(const Rope& args) = 0;

  struct Attention {
    Tensor out;                                // [num_tokens, num_heads * value_head_dim]; overlaps no input
    Tensor query_states;                       // [num_tokens, num_heads * head_dim]
    Tensor key_states;                         // [num_tokens, num_key_value_heads * head_dim]
    Tensor value_states;                       // [num_tokens, num_key_value_heads * value_head_dim]
    std::span<const std::int64_t> cu_seqlens;  // [num_prompts + 1], on the host; begins with 0, ends with num_tokens
    std::int64_t head_dim;
    double scaling;               // of the scores, before the softmax: head_dim^-0.5
    std::int64_t sliding_window;  // a token sees the last sliding_window tokens, itself included; 0: all before it

    std::int64_t num_heads() const { return query_states.columns / head_dim; }
    std::int64_t num_key_value_heads() const { return key_states.columns / head_dim; }
    std::int64_t value_head_dim() const { return value_states.columns / num_key_value_heads(); }
  };
  /// Causal softmax attention of each prompt by itself; query head h reads key and value head
  /// h / (num_heads / num_key_value_heads). Scores, maximum and sum in f32 (f64). In f16 and bf16 the exponentials are
  /// summed as they are and rounded before they meet the values, on the CPU where these are as wide as keys, and on a
  /// GPU always: so do torch's fused kernels. The result is divided by the sum and rounded once.
  /// Never holds a [num_tokens, num_tokens] matrix. Source: scaled_dot_product_attention in torch; Dao 2023,
  /// arXiv:2307.08691.
  virtual void attention(const Attention& args) = 0;

  struct ExpandKeyValues {
    Tensor key_states;    // [num_tokens, num_heads * (qk_nope_head_dim + qk_rope_head_dim)]; overlaps no input
    Tensor value_states;  // [num_tokens, num_heads * v_head_dim]; overlaps no input
    Tensor kv;            // [num_tokens, num_heads * (qk_nope_head_dim + v_head_dim)]
    Tensor k_rot;         // [num_tokens, qk_rope_head_dim]
    std::int64_t num_heads;
  };
  /// A head's key is the first qk_nope_head_dim columns of its part of kv and then k_rot, which all heads share; its
  /// value the other v_head_dim. Source: expand_kv of DeepseekV3Attention in transformers.
  virtual void expand_key_values(const ExpandKeyValues& args) = 0;

  struct SiluMul {
    Tensor out;   // [num_tokens, intermediate_size]; may be gate or up
    Tensor gate;  // [num_tokens, intermediate_size]
    Tensor up;    // [num_tokens, intermediate_size]; without data: out = rounded(silu(gate)), mlp.act_fn by itself
  };
  /// out = rounded(rounded(gate / (1 + exp(-gate))) * up)
  virtual void silu_mul(const SiluMul& args) = 0;

  struct Add {
    Tensor out;  // may be a or b
    Tensor a;
    Tensor b;
  };
  /// out = rounded(a + b), all of one shape
  virtual void add(const Add& args) = 0;

  struct Expand {
    Tensor out;  // [rows, columns], f32; overlaps no input
    Tensor x;    // [rows, columns], f16 or bf16
  };
  /// out = x
  virtual void expand(const Expand& args) = 0;

  /// How a router's logits become scores.
  enum class Scores { softmax, sigmoid };

  struct RouteTokens {
    Tensor topk_indices;    // [num_tokens, num_experts_per_tok], i32
    Tensor topk_weights;    // [num_tokens, num_experts_per_tok], f32; f64 where router_logits are
    Tensor router_logits;   // [num_tokens, num_experts]
    Tensor selection_bias;  // [1, num_experts], of the dtype of topk_weights; or without data
    Scores scores;
    bool normalizes;               // norm_topk_prob
    bool rounds_weights;           // to the dtype of router_logits
    std::int64_t num_groups = 1;   // n_group, of as many experts each
    std::int64_t topk_groups = 1;  // topk_group: of so many groups experts are chosen
    double divisor_epsilon = 0;    // added to the sum that weights are divided by
    double scaling_factor = 1;     // of the weights, after that
  };
  /// Chooses the experts of each token, and how much each counts, in f32 (f64 where router_logits are):
  ///   s[e] = exp(z[e] - max z) / sum over e' of exp(z[e'] - max z), or 1 / (1 + exp(-z[e])), of the logits z
  ///   topk_indices[t, :] = those with the largest s[e] + selection_bias[e], by falling sum; the lower first among
  ///                        equals, a NaN before all numbers
  ///   w[j] = s[topk_indices[t, j]], divided by their sum over j (in order, from 0) + divisor_epsilon if `normalizes`,
  ///          times scaling_factor, and rounded if `rounds_weights`
  /// With several groups, of which group g has the experts [g, g + 1) * num_experts / num_groups, experts are chosen of
  /// the topk_groups groups whose two largest s[e] + selection_bias[e] have the largest sum, in the same order.
  /// Source: MixtralTopKRouter, Qwen3MoeTopKRouter, MiniMaxM2TopKRouter and DeepseekV3TopkRouter in transformers.
  virtual void route_tokens(const RouteTokens& args) = 0;

  struct GroupByExpert {
    Tensor row_of_choice;  // [num_tokens, num_experts_per_tok], i32
    Tensor token_of_row;   // [num_tokens * num_experts_per_tok, 1], i32
    Tensor topk_indices;   // [num_tokens, num_experts_per_tok], i32, in [0, num_experts), none twice in a row
    std::span<std::int64_t> first_rows;  // [num_experts + 1], on the host; complete on return
  };
  /// Deals a row to each choice of a token, so that the rows of an expert e, first_rows[e] to first_rows[e + 1], stand
  /// together, in the order of their tokens.
  virtual void group_by_expert(const GroupByExpert& args) = 0;

  struct GatherRows {
    Tensor out;   // [num_rows, columns]; overlaps no input
    Tensor x;     // [any, columns]
    Tensor rows;  // [num_rows, 1], i32, each a row of x
  };
  /// out[r, :] = x[rows[r], :]
  virtual void gather_rows(const GatherRows& args) = 0;

  struct ExpertMatMul {
    Tensor out;  // [num_rows, out_features]; overlaps no input
    Tensor x;    // [num_rows, in_features]
    const ExpertWeights& weight;
    std::int64_t first_expert;
    /// [n + 1], on the host: the first rows of the experts from first_expert on, and the end of the last one's; counted
    /// from anywhere. first_rows[n] - first_rows[0] is num_rows, and an expert may have none.
    std::span<const std::int64_t> first_rows;
  };
  /// matmul of the rows of each of n experts with its own weight.
  virtual void expert_matmul(const ExpertMatMul& args) = 0;

  struct RunExperts {
    Tensor out;           // [num_rows, hidden_size]; overlaps no input
    Tensor x;             // [num_tokens, hidden_size]
    Tensor token_of_row;  // [num_rows, 1], i32, each a row of x
    const ExpertWeights& gate_up_proj;
    const ExpertWeights& down_proj;
    std::int64_t first_expert;
    std::span<const std::int64_t> first_rows;  // as in ExpertMatMul
    // Memory for what is between; what is left there is unspecified.
    Tensor inputs;     // [num_rows, hidden_size]
    Tensor gate_up;    // [num_rows, 2 * moe_intermediate_size]
    Tensor activated;  // [num_rows, moe_intermediate_size]
  };
  /// The MLP of each of n experts on the rows of its tokens, to the bit what gather_rows, expert_matmul, silu_mul and
  /// expert_matmul make of them: in fewer passes where a device gains by it.
  virtual void run_experts(const RunExperts& args);

  struct CombineExperts {
    Tensor out;             // [num_tokens, hidden_size]; overlaps no input
    Tensor expert_outputs;  // [num_tokens * num_experts_per_tok, hidden_size]
    Tensor row_of_choice;   // [num_tokens, num_experts_per_tok], i32
    Tensor topk_weights;    // [num_tokens, num_experts_per_tok], f32; f64 where the others are
    bool rounds_products;
  };
  /// out[t, :] = rounded(sum over j, in order, from 0, of topk_weights[t, j] * expert_outputs[row_of_choice[t, j], :]),
  /// each product rounded if `rounds_products`. Source: transformers' integrations/moe.py, grouped_mm.
  virtual void combine_experts(const CombineExperts& args) = 0;

  struct AppendStatistics {
    std::span<Statistics> out;              // [num_prompts], on the host; complete once a mark() or synchronize()
                                            // after the call has passed
    Tensor x;                               // [num_rows, width]; i32 too, numbers below 2^24
    std::span<const std::int64_t> cu_rows;  // [num_prompts + 1], on the host: where each prompt's rows begin
  };
  /// out[p].append(row, rows) for each row of the prompt, in order, where rows are those that out[p] has so far: those
  /// of a value that comes in parts may be appended part by part. The tree of a row's sums is in base/statistics.h.
  virtual void append_statistics(const AppendStatistics& args) = 0;

  struct MeanRows {
    Tensor out;                                // [num_prompts, width], f32
    Tensor x;                                  // [num_tokens, width]; i32 too, numbers below 2^24
    std::span<const std::int64_t> cu_seqlens;  // [num_prompts + 1], on the host
  };
  /// out[p, :] = f32 of (the f64 sum over the prompt's tokens, in order) / (their number)
  virtual void mean_rows(const MeanRows& args) = 0;
};

/// How many threads the machine (or OMP_NUM_THREADS) gives.
int cpu_threads();
/// The host's processors. `threads` 0: as cpu_threads(). `name`: of a virtual device,
/// one of several that share them.
std::unique_ptr<Ops> cpu_ops(int threads = 0, std::string name = "cpu");

}  // namespace layerprobe::device
