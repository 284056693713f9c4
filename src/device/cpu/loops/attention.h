#pragma once

// Attention of one head, blockwise with a running maximum and sum (Dao 2023, arXiv:2307.08691), for a few tiles of
// query rows at a time: the keys and values of a block come from the nearest caches for all tiles but the first.
//
// Blocks and tiles begin at the prompt's first token, so that a row's bits depend on its prompt alone.

#include "device/cpu/loops.h"
#include "device/cpu/loops/attention_terms.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kQueryTokens = 8 * kTileRows;
constexpr std::int64_t kKeyBlock = 512;  // a multiple of a panel's keys; a tile's scores take 16 KiB in f32

/// What a call keeps of its query rows between blocks of keys.
template <typename A>
struct AttentionState {
  void* query;    // [kQueryTokens, terms] as SingleTerms or the like has it
  A* out;         // [kQueryTokens, padded head_dim], not yet divided by the sum
  A* max;         // [kQueryTokens], of the scaled scores so far
  A* sum;         // [kQueryTokens], of the exponentials so far
  A* scores;      // [kTileRows, kKeyBlock], then their exponentials
  A* single_row;  // [kPanel]
};

template <typename A>
std::int64_t attention_state_elements(std::int64_t head_dim) {
  return kQueryTokens * (head_dim + padded_head_dim<A>(head_dim) + 2) + kTileRows * kKeyBlock + kPanel<A>;
}

std::int64_t attention_scratch_bytes(const Ops::Attention& args) {
  return args.out.dtype == Dtype::f64
             ? attention_state_elements<double>(args.head_dim) * static_cast<std::int64_t>(sizeof(double))
             : attention_state_elements<float>(args.head_dim) * static_cast<std::int64_t>(sizeof(float));
}

/// `value` in the lanes whose key, counted from `key` for lane 0, is in `seen`; `other` in the rest.
template <typename A>
[[gnu::always_inline]] inline Vector<A> only_seen(Vector<A> value, Vector<A> other, std::int64_t key, Rows seen) {
  if (key >= seen.first && key + kLanes<A> <= seen.last) return value;
  using Index = Lanes<A>;
  const Index lanes = lane_numbers<A>();
  const auto first = static_cast<decltype(lanes[0] + 0)>(greater(seen.first - key, 0));
  const auto last = static_cast<decltype(lanes[0] + 0)>(lesser(greater(seen.last - key, 0), kLanes<A>));
  return ((lanes >= first) & (lanes < last)) ? value : other;
}

/// Scores of one row, keys [0, count), of which those in `seen` are seen: replaced by their exponentials, 0 for the
/// others. The row's maximum, sum and output so far follow.
///
/// In bf16 and f16 the rounding is that of torch's flash kernel for the CPU, which transformers runs with one key and
/// value head or several, with the causal flag or a mask: blocks of 512 keys, exponentials by fast_exponential, summed
/// as they are and rounded to the tensors' dtype for the product with the values. The first `whole_vectors` keys fill
/// whole vectors of the prompt's block; for those after, torch takes accurate exponentials: for all of a prompt that is
/// shorter than a vector. Of its result on N(0, 1) inputs this leaves 0.0 to 0.1% of the elements different; accurate
/// exponentials everywhere 3 to 14%, exponentials that are not rounded 30 to 39% (torch 2.11.0, AVX-512, 33 to 700
/// tokens, head_dim 12 to 64).
template <typename Element, typename A = Scalar<Element>>
inline void take_exponentials(A* scores, std::int64_t count, std::int64_t whole_vectors, Rows seen, A scaling, A& max,
                              A& sum, A* out, std::int64_t out_columns) {
  using V = Vector<A>;
  const V lowest = V{} - static_cast<A>(__builtin_inf());
  V maxima = lowest;
  for (std::int64_t key = 0; key < count; key += kLanes<A>) {
    maxima = larger(only_seen<A>(load(scores + key), lowest, key, seen), maxima);
  }
  const A block_max = max_of_lanes(maxima) * scaling;
  if (block_max > max) {
    const A factor = exponential(V{} + (max - block_max))[0];
    max = block_max;
    sum *= factor;
    for (std::int64_t d = 0; d < out_columns; d += kLanes<A>) store(out + d, load(out + d) * factor);
  }
  V sums = {};
  for (std::int64_t key = 0; key < count; key += kLanes<A>) {
    V value = load(scores + key) * scaling - max;
    if constexpr (sizeof(Element) == 2) {
      value = key < whole_vectors ? fast_exponential(value) : exponential(value);
    } else {
      value = exponential(value);
    }
    value = only_seen<A>(value, V{}, key, seen);
    sums += value;
    store(scores + key, rounded<Element>(value));
  }
  sum += sum_of_lanes(sums);
}

/// One block of keys for one tile of query rows. `keys` counts from the prompt's begin; keys.first begins a panel, and
/// `block_end` is where the block ends for the prompt's last token.
/// `apart`: rows that see a value that is not finite must not share a product with rows that do not see it.
template <typename Element, typename Terms, typename A>
void attend(const Ops::Attention& args, const PackedKeyValues& packed, A* head_keys, const A* head_values,
            const AttentionState<A>& state, std::int64_t tile, std::int64_t first_token, std::int64_t num_tokens,
            Rows keys, std::int64_t block_end, bool apart) {
  const std::int64_t head_dim = args.head_dim;
  const std::int64_t out_columns = padded_head_dim<A>(head_dim);
  const std::int64_t count = keys.last - keys.first;
  A* out = state.out + tile * out_columns;
  const std::int64_t terms = Terms::count(head_dim);
  for (std::int64_t key = 0; key < count; key += kPanel<A>) {
    Terms::multiply(static_cast<const typename Terms::Term*>(state.query) + tile * terms,
                    key_column<Terms>(head_keys, keys.first + key, head_dim), terms, state.scores + key, kKeyBlock);
  }
  const std::int64_t window = args.sliding_window > 0 ? args.sliding_window : first_token + kTileRows;
  const auto seen_by = [&](std::int64_t row) {
    const std::int64_t token = first_token + row;
    const std::int64_t first = greater(keys.first, token - window + 1);
    return Rows{first - keys.first, row < num_tokens ? lesser(keys.last, token + 1) - keys.first : 0};
  };
  const std::int64_t padded_count = (count + kPanel<A> - 1) / kPanel<A> * kPanel<A>;
  const std::int64_t whole_vectors = (block_end - keys.first) / kLanes<A> * kLanes<A>;
  for (std::int64_t row = 0; row < kTileRows; ++row) {
    take_exponentials<Element>(state.scores + row * kKeyBlock, padded_count, whole_vectors, seen_by(row),
                               static_cast<A>(args.scaling), state.max[tile + row], state.sum[tile + row],
                               out + row * out_columns, out_columns);
  }
  for (std::int64_t d = 0; d < out_columns; d += kPanel<A>) {
    const A* values = head_values + d / kPanel<A> * packed.value_panel_stride + keys.first * kPanel<A>;
    if (!apart) {
      multiply_panel(state.scores, kKeyBlock, values, count, out + d, out_columns, true);
      continue;
    }
    for (std::int64_t row = 0; row < kTileRows; ++row) {
      const Rows seen = seen_by(row);
      if (seen.first >= seen.last) continue;
      // Strides of 0: a tile whose rows are all this one.
      multiply_panel(state.scores + row * kKeyBlock + seen.first, 0, values + seen.first * kPanel<A>,
                     seen.last - seen.first, state.single_row, 0, false);
      for (std::int64_t column = 0; column < kPanel<A>; ++column) {
        out[row * out_columns + d + column] += state.single_row[column];
      }
    }
  }
}

/// True when all of the result is finite.
template <typename Element, typename Terms>
bool attend_all(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
                Rows tokens, void* scratch, bool apart) {
  using A = Scalar<Element>;
  using V = Vector<Element>;
  const std::int64_t head_dim = args.head_dim;
  const std::int64_t out_columns = padded_head_dim<A>(head_dim);
  const std::int64_t terms = Terms::count(head_dim);
  auto* queries = static_cast<typename Terms::Term*>(scratch);
  AttentionState<A> state;
  state.query = queries;
  state.out = static_cast<A*>(scratch) + kQueryTokens * head_dim;
  state.max = state.out + kQueryTokens * out_columns;
  state.sum = state.max + kQueryTokens;
  state.scores = state.sum + kQueryTokens;
  state.single_row = state.scores + kTileRows * kKeyBlock;
  for (std::int64_t row = 0; row < kQueryTokens; ++row) {
    if (row < tokens.last - tokens.first) {
      const Element* query = row_of<const Element>(args.query_states, prompt.begin + tokens.first + row);
      Terms::copy_query(queries + row * terms, query + head * head_dim, head_dim);
    } else {
      for (std::int64_t term = 0; term < terms; ++term) queries[row * terms + term] = 0;
    }
    for (std::int64_t d = 0; d < out_columns; ++d) state.out[row * out_columns + d] = 0;
    state.max[row] = -static_cast<A>(__builtin_inf());
    state.sum[row] = 0;
  }

  const std::int64_t key_value_head = head / (args.query_states.columns / args.key_states.columns);
  A* keys = static_cast<A*>(packed.keys) + key_value_head * packed.key_head_stride + prompt.key_offset;
  const A* values =
      static_cast<const A*>(packed.values) + key_value_head * packed.value_head_stride + prompt.value_offset;
  const auto first_seen = [&](std::int64_t token) {
    return args.sliding_window > 0 ? greater(0, token - args.sliding_window + 1) : 0;
  };
  for (std::int64_t block = first_seen(tokens.first) / kKeyBlock * kKeyBlock; block < tokens.last; block += kKeyBlock) {
    const std::int64_t block_end = lesser(block + kKeyBlock, prompt.end - prompt.begin);
    for (std::int64_t token = tokens.first; token < tokens.last; token += kTileRows) {
      const std::int64_t num_tokens = lesser(kTileRows, tokens.last - token);
      const std::int64_t first = greater(block, first_seen(token) / kPanel<A> * kPanel<A>);
      const std::int64_t last = lesser(block + kKeyBlock, token + num_tokens);
      if (first >= last) continue;
      attend<Element, Terms>(args, packed, keys, values, state, token - tokens.first, token, num_tokens,
                             Rows{first, last}, block_end, apart);
    }
  }

  V not_finite = {};
  for (std::int64_t row = 0; row < tokens.last - tokens.first; ++row) {
    Element* to = row_of<Element>(args.out, prompt.begin + tokens.first + row) + head * head_dim;
    const A factor = 1 / state.sum[row];
    for_each_vector<Element>(head_dim, [&](std::int64_t d, auto access) {
      const V value = access.load(state.out + row * out_columns + d) * factor;
      not_finite += value - value;
      access.store(to + d, value);
    });
  }
  return sum_of_lanes(not_finite) == 0;
}

template <typename Element, typename Bf16Terms>
struct TermsOf {
  using Type = SingleTerms<Element>;
};
template <typename Bf16Terms>
struct TermsOf<Bf16, Bf16Terms> {
  using Type = Bf16Terms;
};

template <typename Bf16Terms>
void pack_key_values(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
                     std::int64_t key_value_head, Rows tokens) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    pack_head<Element, typename TermsOf<Element, Bf16Terms>::Type>(args, packed, prompt, key_value_head, tokens);
  });
}

template <typename Bf16Terms>
void attention(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
               Rows tokens, void* scratch) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    using Terms = typename TermsOf<Element, Bf16Terms>::Type;
    if (attend_all<Element, Terms>(args, packed, prompt, head, tokens, scratch, false)) return;
    // A value that is not finite times a weight of 0 is NaN: a token would see what comes after it. Again, row by row.
    attend_all<Element, Terms>(args, packed, prompt, head, tokens, scratch, true);
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
