#include "device/cpu/attention.h"

#include <algorithm>
#include <span>
#include <vector>

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kPackedBytes = 32 << 20;  // of keys and values at a time; one prompt at least

/// A part of a prompt, to pack or to attend: tokens counted from its begin.
struct Part {
  const Prompt* prompt;
  Rows tokens;
};

void add_parts(std::vector<Part>& parts, const Prompt& prompt, std::int64_t step) {
  const std::int64_t num_tokens = prompt.end - prompt.begin;
  for (std::int64_t token = 0; token < num_tokens; token += step) {
    parts.push_back({&prompt, {token, std::min(num_tokens, token + step)}});
  }
}

void attend_prompts(const Ops::Attention& args, std::span<Prompt> prompts, const Loops& loops, Workers& workers,
                    AttentionScratch& scratch) {
  const std::int64_t element = args.out.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
  const std::int64_t panel = loops.panel_bytes / element;
  const std::int64_t num_heads = args.num_heads(), num_key_value_heads = args.num_key_value_heads();
  std::vector<Part> to_pack, to_attend;
  std::int64_t keys = 0, values = 0;
  for (Prompt& prompt : prompts) {
    prompt.key_offset = keys * args.head_dim;
    prompt.value_offset = values * panel;
    keys += round_up(prompt.end - prompt.begin, panel);
    values += round_up(prompt.end - prompt.begin, 2);  // tokens may be packed in pairs
    add_parts(to_pack, prompt, round_up(loops.attention_query_tokens, panel));
    add_parts(to_attend, prompt, loops.attention_query_tokens);
  }
  PackedKeyValues packed{.keys = nullptr,
                         .values = nullptr,
                         .key_head_stride = keys * args.head_dim,
                         .value_head_stride = values * round_up(args.value_head_dim(), panel),
                         .value_panel_stride = values * panel};
  packed.keys = scratch.keys.reserve(num_key_value_heads * packed.key_head_stride * element);
  packed.values = scratch.values.reserve(num_key_value_heads * packed.value_head_stride * element);
  workers.for_each(static_cast<std::int64_t>(to_pack.size()) * num_key_value_heads, [&](std::int64_t task, int) {
    const Part& part = to_pack[static_cast<std::size_t>(task / num_key_value_heads)];
    loops.pack_key_values(args, packed, *part.prompt, task % num_key_value_heads, part.tokens);
  });
  // The last parts of a prompt see the most keys: they come first, so that no thread is left with a long one at the
  // end.
  std::stable_sort(to_attend.begin(), to_attend.end(),
                   [](const Part& a, const Part& b) { return a.tokens.first > b.tokens.first; });
  const std::int64_t scratch_bytes = loops.attention_scratch_bytes(args);
  workers.for_each(static_cast<std::int64_t>(to_attend.size()) * num_heads, [&](std::int64_t task, int thread) {
    const Part& part = to_attend[static_cast<std::size_t>(task / num_heads)];
    loops.attention(args, packed, *part.prompt, task % num_heads, part.tokens, workers.scratch(thread, scratch_bytes));
  });
}

}  // namespace

void attention(const Ops::Attention& args, const Loops& loops, Workers& workers, AttentionScratch& scratch) {
  const std::int64_t element = args.out.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
  const std::int64_t token_bytes = (args.key_states.columns + args.value_states.columns) * element;  // packed
  std::vector<Prompt> prompts;
  std::int64_t packed_bytes = 0;
  for (std::size_t i = 0; i + 1 < args.cu_seqlens.size(); ++i) {
    const Prompt prompt{.begin = args.cu_seqlens[i], .end = args.cu_seqlens[i + 1], .key_offset = 0, .value_offset = 0};
    const std::int64_t bytes = round_up(prompt.end - prompt.begin, loops.panel_bytes / element) * token_bytes;
    if (packed_bytes + bytes > kPackedBytes && !prompts.empty()) {
      attend_prompts(args, prompts, loops, workers, scratch);
      prompts.clear();
      packed_bytes = 0;
    }
    if (prompt.begin < prompt.end) prompts.push_back(prompt);
    packed_bytes += bytes;
  }
  if (!prompts.empty()) attend_prompts(args, prompts, loops, workers, scratch);
}

}  // namespace layerprobe::device::cpu
